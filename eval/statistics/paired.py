"""Two runs over the same problems: paired differences in accuracy and length, and their tests.

Pairing by problem removes the problems' difficulty from the difference, so smaller differences
become visible (Miller, arXiv:2411.00640, on paired comparisons). For n > 1 a problem counts with
the mean over its samples, because samples of two runs have no order that could pair them.

Shapes: P problems that both runs have, R resamples. A gain is other minus baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from eval.statistics.bootstrap import (
    apply_unseen_rates,
    draw_sign_flips,
    draw_unseen_rates,
    permutation_p_value,
    resample_ratios,
    sign_flip_p_value,
)
from eval.statistics.metrics import Resampled, average_metrics
from eval.statistics.samples import Floats, Samples, divide

AES_ACCURACY_WEIGHT = 5.0
MCNEMAR = "McNemar's exact test"
SIGN_FLIP = "sign-flip permutation test"


@dataclass(frozen=True)
class SignificanceTest:
    """A two-sided test of no difference. `correct_p_values` fills in holm and bonferroni."""

    name: str
    p: float | None
    """None if there is nothing to test."""
    holm: float | None = None
    bonferroni: float | None = None


@dataclass(frozen=True)
class Difference:
    """One measure of both runs, and the gain, over the problems that both runs have."""

    baseline: Resampled
    other: Resampled
    gain: Resampled
    flips_R: Floats
    """Gains with random signs: the distribution if the runs are exchangeable on each problem."""
    test: SignificanceTest


@dataclass(frozen=True)
class PairedBenchmark:
    """One benchmark of two runs."""

    accuracy: Difference
    """As shares of 1. A problem counts with the share of its samples that are correct."""
    tokens: Difference
    """Response length. A problem counts with the mean over its samples."""
    aes: Resampled
    num_left_out: int
    """Problems for which at least one run has no graded sample: missing there, or errors only."""
    num_better: int
    """Problems on which the other run is correct more often than the baseline."""
    num_worse: int
    samples_per_problem: tuple[int, int]

    @property
    def num_problems(self) -> int:
        return self.accuracy.gain.num_problems


@dataclass(frozen=True)
class PairedAverage:
    """Unweighted means over benchmarks. AES is computed from the means."""

    accuracy: Difference
    tokens: Difference
    aes: Resampled


def compare_benchmark(
    baseline: Samples, other: Samples, num_resamples: int, random: np.random.Generator
) -> PairedBenchmark:
    """Differences over the problems for which both runs have a graded sample."""
    correct_P2, ids = _pair_means(baseline, other, baseline.correct_N, other.correct_N)
    tokens_P2, _ = _pair_means(baseline, other, baseline.num_tokens_N, other.num_tokens_N)
    graded_P = ~np.isnan(correct_P2).any(axis=1)
    correct_P2, tokens_P2 = correct_P2[graded_P], tokens_P2[graded_P]
    measured_P = ~np.isnan(tokens_P2).any(axis=1)
    known_P4 = np.repeat(np.stack([np.ones_like(measured_P), measured_P], axis=1), 2, axis=1)
    values_P4 = np.where(known_P4, np.concatenate([correct_P2, tokens_P2], axis=1), 0.0)
    resamples_R4 = resample_ratios(values_P4, known_P4.astype(float), num_resamples, random)

    num_samples = baseline.samples_per_problem, other.samples_per_problem
    accuracy = _measure_difference(correct_P2, resamples_R4[:, :2], random)
    accuracy = _widen_unanimous_shares(accuracy, correct_P2, random)
    if num_samples == (1, 1):
        accuracy = replace(accuracy, test=mcnemar(correct_P2))
    tokens = _measure_difference(tokens_P2[measured_P], resamples_R4[:, 2:], random)
    return PairedBenchmark(
        accuracy=accuracy,
        tokens=tokens,
        aes=efficiency_score(accuracy, tokens),
        num_left_out=len(ids) - len(correct_P2),
        num_better=int((correct_P2[:, 1] > correct_P2[:, 0]).sum()),
        num_worse=int((correct_P2[:, 1] < correct_P2[:, 0]).sum()),
        samples_per_problem=num_samples,
    )


def average_benchmarks(benchmarks: Sequence[PairedBenchmark]) -> PairedAverage:
    """Unweighted means over benchmarks. Resampling and sign flips happen within each benchmark."""
    accuracy = _average_differences([b.accuracy for b in benchmarks])
    tokens = _average_differences([b.tokens for b in benchmarks])
    return PairedAverage(accuracy, tokens, efficiency_score(accuracy, tokens))


def efficiency_score(accuracy: Difference, tokens: Difference) -> Resampled:
    """Accuracy-efficiency score: relative length saved plus 5 times relative accuracy gained.

    Both are relative to the baseline. Undefined if the baseline has no correct answer or only
    empty responses.
    Source: Han et al., arXiv:2509.05489.
    """

    def score(gain: Floats, baseline: Floats, longer: Floats, length: Floats) -> Floats:
        return AES_ACCURACY_WEIGHT * divide(gain, baseline) - divide(longer, length)

    parts = accuracy.gain, accuracy.baseline, tokens.gain, tokens.baseline
    return Resampled(
        float(score(*(np.array(part.value) for part in parts))),
        score(*(part.resamples_R for part in parts)),
        min(part.num_problems for part in parts),
    )


def mcnemar(correct_P2: Floats) -> SignificanceTest:
    """McNemar's exact test, for one sample per problem.

    It looks at the problems that exactly one run gets right, and tests with a two-sided binomial
    test whether each run gets half of them.

    Source: McNemar (1947).
    """
    if not len(correct_P2):
        return SignificanceTest(MCNEMAR, None)
    gains_P = correct_P2[:, 1] - correct_P2[:, 0]
    better, worse = int((gains_P > 0).sum()), int((gains_P < 0).sum())
    if better + worse == 0:
        return SignificanceTest(MCNEMAR, 1.0)
    return SignificanceTest(MCNEMAR, float(binomtest(better, better + worse).pvalue))


def correct_p_values(tests: Sequence[SignificanceTest]) -> list[SignificanceTest]:
    """Corrects the p-values of one family of tests for their number. Tests without p do not count.

    Source: Holm (1979). Bonferroni: p times the number of tests.
    """
    order = sorted((test.p, i) for i, test in enumerate(tests) if test.p is not None)
    found = list(tests)
    holm = 0.0
    for rank, (p, i) in enumerate(order):
        holm = max(holm, min(1.0, (len(order) - rank) * p))
        found[i] = replace(tests[i], holm=holm, bonferroni=min(1.0, len(order) * p))
    return found


def _pair_means(
    baseline: Samples, other: Samples, baseline_N: Floats, other_N: Floats
) -> tuple[Floats, list[str]]:
    """(P, 2) means per problem of the two runs, nan where a run has none; and the problems' ids."""
    ids = sorted({*baseline.ids, *other.ids})
    index = {id_: i for i, id_ in enumerate(ids)}
    means_P2 = np.full((len(ids), 2), np.nan)
    for column, (samples, values_N) in enumerate(((baseline, baseline_N), (other, other_N))):
        rows = [index[id_] for id_ in samples.ids]
        means_P2[rows, column] = samples.mean_per_problem(values_N)
    return means_P2, ids


def _measure_difference(
    values_P2: Floats, resamples_R2: Floats, random: np.random.Generator
) -> Difference:
    num_problems = len(values_P2)
    gains_P = values_P2[:, 1] - values_P2[:, 0]
    flips_R = draw_sign_flips(gains_P, len(resamples_R2), random)
    nothing = num_problems == 0
    baseline, other = (np.nan, np.nan) if nothing else values_P2.mean(axis=0)
    return Difference(
        Resampled(float(baseline), resamples_R2[:, 0], num_problems),
        Resampled(float(other), resamples_R2[:, 1], num_problems),
        Resampled(float(other - baseline), resamples_R2[:, 1] - resamples_R2[:, 0], num_problems),
        flips_R,
        SignificanceTest(SIGN_FLIP, None if nothing else sign_flip_p_value(gains_P, flips_R)),
    )


def _widen_unanimous_shares(
    accuracy: Difference, correct_P2: Floats, random: np.random.Generator
) -> Difference:
    """Replaces the resamples of shares on which all problems agree; see `draw_unseen_rates`."""
    num_problems, num_resamples = len(correct_P2), len(accuracy.flips_R)
    unseen_R = draw_unseen_rates(max(1, num_problems), num_resamples, random)
    either_way_R = unseen_R * random.choice([-1.0, 1.0], num_resamples)
    gains_P = correct_P2[:, 1] - correct_P2[:, 0]

    def replaced(share: Resampled, values_P: Floats, unseen_R: Floats) -> Resampled:
        if not (np.isin(values_P, (-1.0, 0.0, 1.0)) & (values_P == share.value)).all():
            return share
        return replace(share, resamples_R=apply_unseen_rates(share.value, unseen_R))

    gain = accuracy.gain
    return replace(
        accuracy,
        baseline=replaced(accuracy.baseline, correct_P2[:, 0], unseen_R),
        other=replaced(accuracy.other, correct_P2[:, 1], unseen_R),
        gain=replaced(gain, gains_P, either_way_R if gain.value == 0 else unseen_R),
    )


def _average_differences(differences: Sequence[Difference]) -> Difference:
    flips_R = np.mean([d.flips_R for d in differences], axis=0)
    gain = average_metrics([d.gain for d in differences])
    p = None if np.isnan(gain.value) else permutation_p_value(gain.value, flips_R)
    return Difference(
        average_metrics([d.baseline for d in differences]),
        average_metrics([d.other for d in differences]),
        gain,
        flips_R,
        SignificanceTest(SIGN_FLIP, p),
    )
