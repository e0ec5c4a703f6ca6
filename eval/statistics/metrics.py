"""Metrics of a run: accuracy, pass@k, response lengths and rates, each with a 95 % interval.

Every metric is a ratio of sums over problems. Its interval is a bootstrap over problems: all
samples of a problem are drawn together. An average over benchmarks is resampled within each
benchmark (a stratified bootstrap). Errors are not wrong answers: they are counted, and left out of
every metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.records import Record
from eval.statistics.bootstrap import (
    CONFIDENCE,
    apply_unseen_rates,
    draw_unseen_rates,
    make_generator,
    percentile_interval,
    ratio,
    resample_ratios,
)
from eval.statistics.samples import Floats, Samples, collect_samples

NUM_RESAMPLES = 10_000
SHARES = ("accuracy", "avg_at_n", "pass_at_k", "truncation_rate", "no_answer_rate")
LENGTHS = ("tokens", "tokens_correct", "tokens_not_truncated")
METRICS = (*SHARES, *LENGTHS)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None where undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


@dataclass(frozen=True)
class Resampled:
    """One metric with its bootstrap resamples."""

    value: float
    """nan if undefined."""
    resamples_R: Floats
    num_problems: int
    """Number of problems that the metric is computed from."""

    def estimate(self) -> Estimate:
        if np.isnan(self.value):
            return Estimate(None)
        found = percentile_interval(self.value, self.resamples_R, self.num_problems)
        return Estimate(self.value, *(found or (None, None)))


def summarize(
    records_by_benchmark: Mapping[str, Iterable[Record]],
    *,
    k: int | None = None,
    num_bootstrap: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics per benchmark and their unweighted average over benchmarks, as JSON values.

    Args:
        records_by_benchmark: each is read once and may be an iterator. Memory does not grow with
            the texts.
        k: for pass@k; None is the largest number of samples of a problem.
        num_bootstrap: number of resamples.
        seed: of the resampling.
    Returns:
        "benchmarks": per benchmark `num_problems`, `num_samples` (graded), `num_errors`,
        `samples_per_problem` (n), `k`, `reasons` (counts of verdicts) and `metrics`, each metric
        with `value`, `low` and `high`, null where undefined. "average": the same metrics
        averaged, null if a benchmark has none. Rates are shares of 1, lengths are in tokens.
        "confidence", "num_bootstrap", "seed": how the intervals were computed.
    Raises:
        ValueError: no problem has k samples, or a record has neither verdict nor error.
    """
    benchmarks = {}
    resampled = {}
    for name, records in records_by_benchmark.items():
        samples = collect_samples(records)
        benchmark_k = samples.samples_per_problem if k is None else k
        if k is not None and k > samples.samples_per_problem > 0:
            raise ValueError(
                f"{name}: pass@{k} needs {k} samples of a problem, "
                f"there are {samples.samples_per_problem}"
            )
        resampled[name] = resample(samples, benchmark_k, num_bootstrap, make_generator(seed, name))
        benchmarks[name] = {
            "num_problems": samples.num_problems,
            "num_samples": len(samples.correct_N) - samples.num_errors,
            "num_errors": samples.num_errors,
            "samples_per_problem": samples.samples_per_problem,
            "reasons": samples.reasons,
            "k": benchmark_k,
            "metrics": {m: resampled[name][m].estimate().to_json() for m in METRICS},
        }
    average = {m: average_metrics([r[m] for r in resampled.values()]).estimate() for m in METRICS}
    return {
        "benchmarks": benchmarks,
        "average": {
            "num_benchmarks": len(benchmarks),
            "metrics": {name: estimate.to_json() for name, estimate in average.items()},
        },
        "confidence": CONFIDENCE,
        "num_bootstrap": num_bootstrap,
        "seed": seed,
    }


def resample(
    samples: Samples, k: int, num_resamples: int, random: np.random.Generator
) -> dict[str, Resampled]:
    """All metrics of one benchmark. They share the same resamples of its problems."""
    ratios = metric_ratios(samples, k)
    numerators_PM = np.stack([ratios[m][0] for m in METRICS], axis=1)
    denominators_PM = np.stack([ratios[m][1] for m in METRICS], axis=1)
    values_M = ratio(numerators_PM, denominators_PM)
    resamples_RM = resample_ratios(numerators_PM, denominators_PM, num_resamples, random)
    num_graded = int((denominators_PM[:, 0] > 0).sum())
    unseen_R = draw_unseen_rates(max(1, num_graded), num_resamples, random)
    found = {}
    for m, name in enumerate(METRICS):
        num_problems = int((denominators_PM[:, m] > 0).sum())
        resamples_R = resamples_RM[:, m]
        if name in SHARES and values_M[m] in (0.0, 1.0):
            resamples_R = apply_unseen_rates(values_M[m], unseen_R)
        found[name] = Resampled(float(values_M[m]), resamples_R, num_problems)
    return found


def metric_ratios(samples: Samples, k: int) -> dict[str, tuple[Floats, Floats]]:
    """Numerators and denominators, (P,) each. A metric is the ratio of their sums.

    accuracy: share of all graded samples that are correct. avg_at_n: mean over problems of the
    share of a problem's samples that are correct. The two differ if errors left some problems with
    fewer samples than others.
    """
    correct_N, tokens_N = samples.correct_N, samples.num_tokens_N
    pass_P = pass_at_k(
        samples.sum_per_problem(_known(correct_N)), samples.sum_per_problem(correct_N), k
    )
    truncated_N = samples.truncated_N
    return {
        "accuracy": _mean_of_samples(samples, correct_N),
        "avg_at_n": _mean_of_problems(samples.mean_per_problem(correct_N)),
        "pass_at_k": _mean_of_problems(pass_P),
        "truncation_rate": _mean_of_samples(samples, truncated_N),
        "no_answer_rate": _mean_of_samples(samples, samples.no_answer_N),
        "tokens": _mean_of_samples(samples, tokens_N),
        "tokens_correct": _mean_of_samples(samples, np.where(correct_N == 1, tokens_N, np.nan)),
        "tokens_not_truncated": _mean_of_samples(
            samples, np.where(truncated_N == 0, tokens_N, np.nan)
        ),
    }


def pass_at_k(num_samples_P: Floats, num_correct_P: Floats, k: int) -> Floats:
    """(P,) unbiased estimate of the probability that at least one of k samples is correct.

    It is 1 - C(n - c, k) / C(n, k) if c of n samples are correct; nan where n < k.

    Raises:
        ValueError: k is not positive, and there are samples.
    Source: Chen et al., arXiv:2107.03374, section 2.1.
    """
    if k < 1:
        if not num_samples_P.any():
            return np.full(len(num_samples_P), np.nan)
        raise ValueError(f"pass@{k}: k must be at least 1")
    # C(n - c, k) / C(n, k) is the product over j < k of (n - c - j) / (n - j); 0 if n - c < k.
    steps_K = np.arange(k)
    n_P1, c_P1 = num_samples_P[:, None], num_correct_P[:, None]
    enough_P1 = n_P1 >= k
    fail_PK = np.divide(
        np.maximum(n_P1 - c_P1 - steps_K, 0),
        n_P1 - steps_K,
        out=np.full((len(num_samples_P), k), np.nan),
        where=enough_P1,
    )
    pass_P: Floats = 1.0 - fail_PK.prod(axis=1)
    return pass_P


def average_metrics(benchmarks: list[Resampled]) -> Resampled:
    """The unweighted mean over benchmarks; nan if one of them is undefined.

    The smallest benchmark decides how far `percentile_interval` expands the interval.
    """
    if not benchmarks:
        return Resampled(np.nan, np.zeros(0), 0)
    return Resampled(
        float(np.mean([b.value for b in benchmarks])),
        np.mean([b.resamples_R for b in benchmarks], axis=0),
        min(b.num_problems for b in benchmarks),
    )


def _known(values_N: Floats) -> Floats:
    """1 where the value is known, else nan."""
    return np.where(np.isnan(values_N), np.nan, 1.0)


def _mean_of_samples(samples: Samples, values_N: Floats) -> tuple[Floats, Floats]:
    """Numerators and denominators of a mean over samples."""
    return samples.sum_per_problem(values_N), samples.sum_per_problem(_known(values_N))


def _mean_of_problems(values_P: Floats) -> tuple[Floats, Floats]:
    """Numerators and denominators of a mean over problems."""
    return np.nan_to_num(values_P, nan=0.0), np.where(np.isnan(values_P), 0.0, 1.0)
