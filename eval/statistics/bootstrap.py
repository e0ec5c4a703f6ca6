"""Bootstrap intervals of ratios over problems, and the sign-flip test.

Every metric is a ratio of sums over problems (a mean is one with denominators of 1), so that
resampling problems is a matrix product: counts of how often each problem was drawn, times the sums.
Samples of one problem are drawn together: they are not independent, and counting them as if they
were makes intervals too narrow (Miller, arXiv:2411.00640).

Shapes: P problems, M metrics, R resamples.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from eval.statistics.samples import Floats, divide

CONFIDENCE = 0.95
_CHUNK_CELLS = 4_000_000
"""Cells of a count matrix held at once: 32 MB."""
_MAX_UNDEFINED = 0.05
"""An interval needs all but this share of its resamples to be defined."""


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers of one benchmark: the same whatever else is measured beside it."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def ratio(numerators_PM: Floats, denominators_PM: Floats) -> Floats:
    """(M,) sums of numerators over sums of denominators; nan where the latter is 0."""
    return divide(numerators_PM.sum(0), denominators_PM.sum(0))


def resampled_ratios(
    numerators_PM: Floats,
    denominators_PM: Floats,
    num_resamples: int,
    random: np.random.Generator,
) -> Floats:
    """(R, M) ratios over problems drawn with replacement, the same draw for all metrics.

    A resample whose denominator is 0 is nan. Memory does not grow with R x P.
    """
    num_problems, num_metrics = numerators_PM.shape
    if num_problems == 0:
        return np.full((num_resamples, num_metrics), np.nan)
    both = np.concatenate([numerators_PM, denominators_PM], axis=1)
    parts = []
    for rows in _chunks(num_resamples, num_problems):
        drawn = random.integers(0, num_problems, (rows, num_problems), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * np.int32(num_problems)
        counts = np.bincount(drawn.ravel(), minlength=rows * num_problems)
        sums = counts.reshape(rows, num_problems).astype(np.float64) @ both
        parts.append(divide(sums[:, :num_metrics], sums[:, num_metrics:]))
    return np.concatenate(parts)


def unseen_chance(num_problems: int, num_resamples: int, random: np.random.Generator) -> Floats:
    """(R,) draws for the chance of what none of `num_problems` problems showed: Beta(1, P).

    Where all problems agree (0 % or 100 % accuracy), resampling sees no spread. These draws stand
    in: their upper quantile is 1 - tail^(1/P), the bound of Clopper and Pearson (1934), which holds
    for any outcome in [0, 1] too, as no other is 0 for all problems as often.
    """
    return random.beta(1.0, num_problems, num_resamples)


def around_certainty(share: float, unseen_R: Floats) -> Floats:
    """(R,) draws of a share on which all problems agree: 0, 1, or -1 for a difference."""
    return unseen_R if share == 0 else share * (1.0 - unseen_R)


def interval(value: float, resamples_R: Floats, num_problems: int) -> tuple[float, float] | None:
    """Expanded percentile interval of nominal 95 %.

    Percentiles at normal quantiles stretched by t(P - 1) and sqrt(P / (P - 1)): with few problems
    the plain percentile interval is too narrow (Hesterberg, arXiv:1411.5279).

    Returns:
        None where there is nothing to resample: fewer than two problems, or a ratio that more than
        5 % of the resamples leave undefined.
    """
    if num_problems < 2 or np.isnan(value):
        return None
    defined = resamples_R[~np.isnan(resamples_R)]
    if len(defined) < (1 - _MAX_UNDEFINED) * len(resamples_R):
        return None
    tail = (1 - CONFIDENCE) / 2
    stretch = np.sqrt(num_problems / (num_problems - 1))
    tail = float(ndtr(stretch * stdtrit(num_problems - 1, tail)))
    low, high = np.quantile(defined, [tail, 1 - tail])
    # With a skewed ratio the ends may miss the value itself by rounding or by a resample's width.
    return min(float(low), value), max(float(high), value)


def sign_flips(differences_P: Floats, num_resamples: int, random: np.random.Generator) -> Floats:
    """(R,) means of the differences with random signs: how they would be distributed if the two
    runs were exchangeable, problem by problem."""
    num_problems = len(differences_P)
    if num_problems == 0:
        return np.full(num_resamples, np.nan)
    nonzero = differences_P[differences_P != 0]
    parts = []
    for rows in _chunks(num_resamples, len(nonzero)):
        flipped = _random_bits(rows, len(nonzero), random)
        parts.append((nonzero.sum() - 2.0 * (flipped @ nonzero)) / num_problems)
    return np.concatenate(parts)


def sign_flip_p(differences_P: Floats, flips_R: Floats) -> float:
    """Two-sided p of the sign-flip test of a mean difference of 0.

    Exact over all 2^m patterns of m differences other than 0 where these are no more than the
    drawn ones; else from those drawn, `flips_R`.
    """
    observed = float(differences_P.mean())
    nonzero = differences_P[differences_P != 0]
    if 2 ** min(len(nonzero), 62) > len(flips_R):
        return share_as_far(observed, flips_R)
    patterns = np.arange(2 ** len(nonzero))[:, None] >> np.arange(len(nonzero)) & 1
    means = (1.0 - 2.0 * patterns) @ nonzero / len(differences_P)
    return float(_as_far(observed, means).mean())


def share_as_far(observed: float, flips_R: Floats) -> float:
    """Share of drawn sign patterns at least as far from 0 as what was observed. That one counts as
    drawn too, so that p is never 0 (Phipson and Smyth, 2010, doi:10.2202/1544-6115.1585)."""
    return float((1 + _as_far(observed, flips_R).sum()) / (1 + len(flips_R)))


def _as_far(observed: float, means: Floats) -> NDArray[np.bool_]:
    # Equal sums of floats in another order differ in their last digits.
    return np.abs(means) >= abs(observed) * (1 - 1e-9) - 1e-12


def _random_bits(rows: int, columns: int, random: np.random.Generator) -> Floats:
    num_bytes = -(-columns // 8)
    packed = np.frombuffer(random.bytes(rows * num_bytes), np.uint8).reshape(rows, num_bytes)
    return np.unpackbits(packed, axis=1, count=columns).astype(np.float64)


def _chunks(num_rows: int, num_columns: int) -> Iterator[int]:
    """Numbers of rows that together are `num_rows`, each small enough for memory."""
    step = max(1, _CHUNK_CELLS // max(1, num_columns))
    for start in range(0, num_rows, step):
        yield min(step, num_rows - start)
