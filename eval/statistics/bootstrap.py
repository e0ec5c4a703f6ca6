"""Bootstrap intervals of ratios over problems, and the sign-flip test.

Every metric is a ratio of sums over problems; in a mean over problems the denominators are 1. So
resampling is a matrix product: how often each problem was drawn, times the problems' sums.

Problems are resampled, not samples. Samples of one problem are not independent, and intervals that
ignore this are too narrow (Miller, arXiv:2411.00640).

Shapes: P problems, M metrics, R resamples.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from eval.statistics.samples import Floats, divide

CONFIDENCE = 0.95
_CHUNK_CELLS = 4_000_000
"""Cells of the matrix of counts in memory at once: 32 MB."""
_MAX_UNDEFINED = 0.05
"""Largest share of undefined resamples with which an interval is still computed."""


def make_generator(seed: int, name: str) -> np.random.Generator:
    """The random generator of one benchmark. It does not depend on the other benchmarks."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def ratio(numerators_PM: Floats, denominators_PM: Floats) -> Floats:
    """(M,) sum of numerators over sum of denominators; nan where the latter is 0."""
    return divide(numerators_PM.sum(0), denominators_PM.sum(0))


def resample_ratios(
    numerators_PM: Floats, denominators_PM: Floats, num_resamples: int, random: np.random.Generator
) -> Floats:
    """(R, M) ratios over problems drawn with replacement. All metrics share each draw.

    A resample whose denominator is 0 is nan. Memory does not grow with R x P.
    """
    num_problems, num_metrics = numerators_PM.shape
    if num_problems == 0:
        return np.full((num_resamples, num_metrics), np.nan)
    both = np.concatenate([numerators_PM, denominators_PM], axis=1)
    parts = []
    for rows in _split_rows(num_resamples, num_problems):
        drawn = random.integers(0, num_problems, (rows, num_problems), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * np.int32(num_problems)
        counts = np.bincount(drawn.ravel(), minlength=rows * num_problems)
        sums = counts.reshape(rows, num_problems).astype(np.float64) @ both
        parts.append(divide(sums[:, :num_metrics], sums[:, num_metrics:]))
    return np.concatenate(parts)


def draw_unseen_rates(num_problems: int, num_resamples: int, random: np.random.Generator) -> Floats:
    """(R,) draws of the rate of an outcome that none of `num_problems` problems had: Beta(1, P).

    If all problems agree (0 % or 100 % accuracy), every resample is the same, so the bootstrap
    shows no spread. These draws replace it. Their upper quantile is 1 - tail^(1/P), the bound of
    Clopper and Pearson (1934). The bound also holds for outcomes between 0 and 1: among outcomes
    in [0, 1] of a given mean, one that is only 0 or 1 is most likely to be 0 on all problems.
    """
    return random.beta(1.0, num_problems, num_resamples)


def apply_unseen_rates(share: float, unseen_R: Floats) -> Floats:
    """(R,) draws of a share on which all problems agree.

    Args:
        share: 0 or 1; for a difference also -1.
        unseen_R: draws of the rate of any other outcome.
    """
    return unseen_R if share == 0 else share * (1.0 - unseen_R)


def percentile_interval(
    value: float, resamples_R: Floats, num_problems: int
) -> tuple[float, float] | None:
    """Expanded percentile interval, nominal coverage 95 %.

    With few problems the plain percentile interval is too narrow. So the normal quantiles that
    choose the percentiles become those of t(P - 1), times sqrt(P / (P - 1)).

    Returns:
        None if there are fewer than two problems, or if more than 5 % of the resamples are
        undefined.
    Source: Hesterberg, arXiv:1411.5279.
    """
    from scipy.special import ndtr, stdtrit  # here, so that --help is fast

    if num_problems < 2 or np.isnan(value):
        return None
    defined = resamples_R[~np.isnan(resamples_R)]
    if len(defined) < (1 - _MAX_UNDEFINED) * len(resamples_R):
        return None
    tail = (1 - CONFIDENCE) / 2
    stretch = np.sqrt(num_problems / (num_problems - 1))
    tail = float(ndtr(stretch * stdtrit(num_problems - 1, tail)))
    low, high = np.quantile(defined, [tail, 1 - tail])
    # With a skewed ratio an end may miss the value itself by rounding or by one resample's width.
    return min(float(low), value), max(float(high), value)


def draw_sign_flips(
    differences_P: Floats, num_resamples: int, random: np.random.Generator
) -> Floats:
    """(R,) means of the differences with random signs.

    This is their distribution if the two runs are exchangeable on every problem.
    """
    num_problems = len(differences_P)
    if num_problems == 0:
        return np.full(num_resamples, np.nan)
    nonzero = differences_P[differences_P != 0]
    parts = []
    for rows in _split_rows(num_resamples, len(nonzero)):
        flipped = _draw_bits(rows, len(nonzero), random)
        parts.append((nonzero.sum() - 2.0 * (flipped @ nonzero)) / num_problems)
    return np.concatenate(parts)


def sign_flip_p_value(differences_P: Floats, flips_R: Floats) -> float:
    """Two-sided p-value of the sign-flip test of a mean difference of 0.

    With m nonzero differences there are 2^m sign patterns. If these are at most R, all are
    enumerated and the p-value is exact; otherwise it comes from the R drawn ones, `flips_R`.
    """
    observed = float(differences_P.mean())
    nonzero = differences_P[differences_P != 0]
    if 2 ** min(len(nonzero), 62) > len(flips_R):
        return permutation_p_value(observed, flips_R)
    patterns = np.arange(2 ** len(nonzero))[:, None] >> np.arange(len(nonzero)) & 1
    means = (1.0 - 2.0 * patterns) @ nonzero / len(differences_P)
    return float(_is_as_far(observed, means).mean())


def permutation_p_value(observed: float, flips_R: Floats) -> float:
    """Share of the drawn sign patterns whose mean is at least as far from 0 as the observed one.

    The observed pattern counts as one of the draws, so p is never 0.
    Source: Phipson and Smyth (2010), doi:10.2202/1544-6115.1585.
    """
    return float((1 + _is_as_far(observed, flips_R).sum()) / (1 + len(flips_R)))


def _is_as_far(observed: float, means: Floats) -> NDArray[np.bool_]:
    # The same floats summed in another order differ in the last digits.
    return np.abs(means) >= abs(observed) * (1 - 1e-9) - 1e-12


def _draw_bits(rows: int, columns: int, random: np.random.Generator) -> Floats:
    num_bytes = -(-columns // 8)
    packed = np.frombuffer(random.bytes(rows * num_bytes), np.uint8).reshape(rows, num_bytes)
    return np.unpackbits(packed, axis=1, count=columns).astype(np.float64)


def _split_rows(num_rows: int, num_columns: int) -> Iterator[int]:
    """Splits `num_rows` into chunks that fit into memory; yields their sizes."""
    step = max(1, _CHUNK_CELLS // max(1, num_columns))
    for start in range(0, num_rows, step):
        yield min(step, num_rows - start)
