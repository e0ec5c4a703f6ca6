"""Paired differences, their intervals and tests, against scipy, statsmodels and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from eval.records import Record
from eval.statistics.bootstrap import draw_sign_flips, make_generator, sign_flip_p_value
from eval.statistics.paired import (
    MCNEMAR,
    SIGN_FLIP,
    PairedBenchmark,
    SignificanceTest,
    average_benchmarks,
    compare_benchmark,
    correct_p_values,
    mcnemar,
)
from eval.statistics.samples import Samples, collect_samples


def samples(
    correct: Sequence[Sequence[float | None]], tokens: Sequence[Sequence[int | None]] | None = None
) -> Samples:
    """One row per problem, one value per sample; None is an error."""
    made = []
    for p, row in enumerate(correct):
        for s, value in enumerate(row):
            length = 100 if tokens is None else tokens[p][s]
            error = "the server went away" if value is None else None
            right = None if value is None else bool(value)
            made.append(
                Record(
                    str(p), s, "q", "p", "r", "1", right, "correct" if right else "wrong", "1",
                    length, "stop", 0, error,
                )
            )  # fmt: skip
    return collect_samples(made)


def compare(baseline: Samples, other: Samples, num_resamples: int = 4_000) -> PairedBenchmark:
    return compare_benchmark(baseline, other, num_resamples, make_generator(0, "b"))


def simulated(
    seed: int, num_problems: int, n: int = 1, gain: float = 0.0, saved: float = 0.0
) -> tuple[Samples, Samples]:
    """Two runs whose problems share their difficulty."""
    random = np.random.default_rng(seed)
    difficulty = random.normal(0, 1.5, (num_problems, 1))
    made = []
    for shift, factor in ((0.0, 1.0), (gain, 1 - saved)):
        chance = 1 / (1 + np.exp(-difficulty - shift))
        correct = random.random((num_problems, n)) < chance
        lengths = factor * np.exp(5.5 - 0.3 * difficulty + random.normal(0, 0.3, correct.shape))
        made.append(samples(correct.tolist(), lengths.astype(int).tolist()))
    return made[0], made[1]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_that_of_statsmodels(better: int, worse: int, right: int, wrong: int) -> None:
    pairs = [(0, 1)] * better + [(1, 0)] * worse + [(1, 1)] * right + [(0, 0)] * wrong
    test = mcnemar(np.array(pairs, float).reshape(-1, 2))
    if not pairs:
        assert test.p is None
        return
    theirs = statsmodels_mcnemar([[right, worse], [better, wrong]], exact=True)
    assert test.p == pytest.approx(theirs.pvalue)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 20))
def test_sign_flip_test_of_one_sample_is_mcnemars(better: int, worse: int, same: int) -> None:
    pairs = np.array([(0, 1)] * better + [(1, 0)] * worse + [(1, 1)] * (same + 1), float)
    gains = pairs[:, 1] - pairs[:, 0]
    flips = draw_sign_flips(gains, 5_000, np.random.default_rng(0))
    assert sign_flip_p_value(gains, flips) == pytest.approx(mcnemar(pairs).p)


@given(st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=12))
@settings(max_examples=40)
def test_sign_flip_test_is_scipys_permutation_test(gains: list[float]) -> None:
    differences = np.array(gains)
    flips = draw_sign_flips(differences, 5_000, np.random.default_rng(0))
    theirs = scipy.stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert sign_flip_p_value(differences, flips) == pytest.approx(theirs.pvalue)


def test_drawn_sign_flips_approach_the_exact_p() -> None:
    random = np.random.default_rng(5)
    differences = random.choice([-1.0, 0.0, 1.0], 400, p=[0.1, 0.75, 0.15])
    pairs = np.stack([np.zeros(400), differences], axis=1)
    p = sign_flip_p_value(differences, draw_sign_flips(differences, 40_000, random))
    assert p == pytest.approx(mcnemar(pairs).p, abs=0.005)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=15))
@settings(max_examples=40)
@pytest.mark.slow
def test_corrections_are_those_of_statsmodels(ps: list[float]) -> None:
    with_gap = [SignificanceTest("t", p) for p in ps]
    with_gap.insert(1, SignificanceTest("t", None))  # nothing to test: not in the family
    found = correct_p_values(with_gap)
    assert found.pop(1) == SignificanceTest("t", None)
    for name in ("holm", "bonferroni"):
        theirs = multipletests(ps, method=name)[1]
        assert [getattr(test, name) for test in found] == pytest.approx(list(theirs))


@pytest.mark.parametrize("n", [1, 4])
def test_paired_intervals_are_those_of_scipy(n: int) -> None:
    num_problems = 200
    baseline, other = simulated(2, num_problems, n, gain=0.4, saved=0.2)
    got = compare(baseline, other, 20_000)
    columns = [
        run.mean_per_problem(values)
        for run in (baseline, other)
        for values in (run.correct_N, run.num_tokens_N)
    ]
    correct_a, tokens_a, correct_b, tokens_b = columns

    def score(a: Any, la: Any, b: Any, lb: Any, axis: int = -1) -> Any:
        a, la, b, lb = (x.mean(axis) for x in (a, la, b, lb))
        return (la - lb) / la + 5 * (b - a) / a

    t = scipy.stats.t.ppf(0.975, num_problems - 1)
    level = 2 * scipy.stats.norm.cdf(math.sqrt(num_problems / (num_problems - 1)) * t) - 1
    options: Any = {
        "confidence_level": level, "method": "percentile", "n_resamples": 20_000,
        "rng": np.random.default_rng(3),
    }  # fmt: skip
    theirs = {
        "accuracy": scipy.stats.bootstrap((correct_b - correct_a,), np.mean, **options),
        "tokens": scipy.stats.bootstrap((tokens_b - tokens_a,), np.mean, **options),
        "aes": scipy.stats.bootstrap(
            (correct_a, tokens_a, correct_b, tokens_b), score, paired=True, **options
        ),
    }
    ours = {"accuracy": got.accuracy.gain, "tokens": got.tokens.gain, "aes": got.aes}
    for name, gain in ours.items():
        estimate = gain.estimate()
        low, high = theirs[name].confidence_interval
        assert estimate.low == pytest.approx(low, abs=0.05 * (high - low)), name
        assert estimate.high == pytest.approx(high, abs=0.05 * (high - low)), name
    assert got.accuracy.gain.value == pytest.approx((correct_b - correct_a).mean())
    assert got.aes.value == pytest.approx(score(correct_a, tokens_a, correct_b, tokens_b))
    assert got.accuracy.test.name == (MCNEMAR if n == 1 else SIGN_FLIP)


def test_pairing_narrows_the_interval() -> None:
    got = compare(*simulated(4, 400, 4)).accuracy
    gain, alone = got.gain.estimate(), got.baseline.estimate()
    assert gain.high is not None
    assert gain.low is not None
    assert alone.high is not None
    assert alone.low is not None
    assert (gain.high - gain.low) < 0.8 * math.sqrt(2) * (alone.high - alone.low)


def test_real_differences_are_found_and_false_ones_are_rare() -> None:
    """Coverage and size under no difference, by simulation; and power under a real one."""
    num_runs = 200
    covered = rejected_accuracy = rejected_length = 0
    for seed in range(num_runs):
        got = compare(*simulated(seed, 60, 3), num_resamples=400)
        estimate = got.accuracy.gain.estimate()
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 0 <= estimate.high
        rejected_accuracy += (got.accuracy.test.p or 1) < 0.05
        rejected_length += (got.tokens.test.p or 1) < 0.05
    assert 0.91 <= covered / num_runs <= 0.99
    assert rejected_accuracy / num_runs < 0.09
    assert rejected_length / num_runs < 0.09
    real = compare(*simulated(0, 400, 4, gain=0.6, saved=0.2))
    assert (real.accuracy.test.p or 1) < 0.01
    assert (real.tokens.test.p or 1) < 0.01


def test_efficiency_score_by_hand() -> None:
    """20 % shorter and accuracy from 50 % to 75 %: 0.2 + 5 x 0.5."""
    baseline = samples([[1], [0], [1], [0]], [[100]] * 4)
    other = samples([[1], [1], [1], [0]], [[80]] * 4)
    assert compare(baseline, other).aes.value == pytest.approx(0.2 + 5 * 0.5)
    assert compare(other, baseline).aes.value == pytest.approx(-0.25 - 5 / 3)
    nothing = compare(samples([[0], [0]]), samples([[1], [0]]))
    assert nothing.aes.estimate().value is None


def test_identical_runs_have_no_difference_but_an_interval() -> None:
    run = samples([[1], [0], [1], [1], [0]] * 10)
    got = compare(run, run)
    gain = got.accuracy.gain.estimate()
    assert gain.value == 0
    assert got.accuracy.test.p == got.tokens.test.p == 1
    assert gain.low is not None
    assert gain.high is not None
    assert -0.12 < gain.low < -0.03  # 50 problems without a difference do not prove there is none
    assert 0.03 < gain.high < 0.12
    assert (got.num_better, got.num_worse) == (0, 0)


def test_from_nothing_right_to_everything_right() -> None:
    got = compare(samples([[0]] * 20), samples([[1]] * 20)).accuracy
    gain = got.gain.estimate()
    assert gain.value == gain.high == 1
    assert gain.low == pytest.approx(0.025 ** (1 / 20), abs=0.05)
    assert got.test.p == pytest.approx(2 * 0.5**20)


def test_one_problem_has_a_difference_but_no_interval() -> None:
    gain = compare(samples([[1, 0]]), samples([[1, 1]])).accuracy.gain.estimate()
    assert (gain.value, gain.low, gain.high) == (0.5, None, None)


def test_problems_without_a_verdict_in_both_are_left_out_and_counted() -> None:
    baseline = samples([[1], [None], [0], [1]])
    other = samples([[1], [1], [1], [None], [0], [0]])
    got = compare(baseline, other)
    assert (got.num_problems, got.num_left_out) == (2, 4)
    assert got.accuracy.gain.value == pytest.approx(0.5)
    nothing = compare(baseline, samples([]))
    assert nothing.accuracy.gain.estimate().value is None
    assert nothing.accuracy.test.p is None
    assert (nothing.num_problems, nothing.num_left_out) == (0, 4)


def test_runs_of_different_n() -> None:
    got = compare(samples([[1], [0], [0]]), samples([[1, 1, 0, 0], [1, 0, 0, 0], [0] * 4]))
    assert got.accuracy.gain.value == pytest.approx((0.5 + 0.25 + 0) / 3 - 1 / 3)
    assert got.accuracy.test.name == SIGN_FLIP
    assert (got.num_better, got.num_worse) == (1, 1)
    assert got.samples_per_problem == (1, 4)


def test_unknown_lengths_leave_accuracy_alone() -> None:
    baseline = samples([[1], [0], [1]], [[100], [None], [50]])
    got = compare(baseline, samples([[1], [1], [1]], [[10], [20], [30]]))
    assert got.num_problems == 3
    assert got.tokens.gain.num_problems == 2
    assert got.tokens.baseline.value == pytest.approx(75)
    assert got.tokens.other.value == pytest.approx(20)


def test_average_has_the_mean_and_the_score_of_the_means() -> None:
    parts = [compare(*simulated(s, size, gain=0.3, saved=0.3)) for s, size in ((1, 50), (2, 300))]
    got = average_benchmarks(parts)
    gains = [p.accuracy.gain.value for p in parts]
    assert got.accuracy.gain.value == pytest.approx(np.mean(gains))
    base, length = (
        np.mean([getattr(p, field).baseline.value for p in parts])
        for field in ("accuracy", "tokens")
    )
    saved = -got.tokens.gain.value / length
    assert got.aes.value == pytest.approx(saved + 5 * got.accuracy.gain.value / base)
    variances = [np.var(p.accuracy.gain.resamples_R) for p in parts]
    assert np.var(got.accuracy.gain.resamples_R) == pytest.approx(sum(variances) / 4, rel=0.1)
    z = got.accuracy.gain.value / math.sqrt(sum(variances) / 4)
    assert got.accuracy.test.p == pytest.approx(2 * scipy.stats.norm.sf(abs(z)), abs=0.03)
