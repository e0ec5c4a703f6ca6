"""Every metric is computed a second time: by brute force, or by scipy and statsmodels."""

from __future__ import annotations

import itertools
import json
import math
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from eval.records import Record
from eval.statistics.bootstrap import percentile_interval, ratio, resample_ratios
from eval.statistics.metrics import METRICS, pass_at_k, summarize
from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool

RESAMPLES = 2_000


def record(id_: str, sample: int = 0, correct: bool | None = True, **fields: Any) -> Record:
    reason = None if correct is None else ("correct" if correct else "wrong")
    values: dict[str, Any] = {
        "question": f"question {id_}", "prompt": f"prompt {id_}", "response": "so 1", "label": "1",
        "reason": reason, "answer": "1", "num_tokens": 10, "finish_reason": "stop", "seed": 0,
        "error": "the server went away" if correct is None else None,
    }  # fmt: skip
    return Record(id=id_, sample=sample, correct=correct, **{**values, **fields})


def summary(records: Sequence[Record], **options: Any) -> dict[str, Any]:
    found = summarize({"b": records}, num_bootstrap=RESAMPLES, **options)
    json.dumps(found, allow_nan=False)
    benchmark: dict[str, Any] = found["benchmarks"]["b"]
    return benchmark


def value(records: Sequence[Record], metric: str, **options: Any) -> float | None:
    found: float | None = summary(records, **options)["metrics"][metric]["value"]
    return found


OUTCOMES = st.sampled_from(["right", "wrong", "none", "error"])
FINISH_REASONS = st.sampled_from(["stop", "length", None])
SAMPLES = st.lists(
    st.lists(
        st.tuples(OUTCOMES, st.integers(0, 5000) | st.none(), FINISH_REASONS),
        min_size=1, max_size=5,
    ),
    min_size=1, max_size=6,
)  # fmt: skip


def _records(problems: list[list[tuple[str, int | None, str | None]]]) -> list[Record]:
    records = []
    for p, samples in enumerate(problems):
        for s, (outcome, tokens, finish) in enumerate(samples):
            correct = {"right": True, "error": None}.get(outcome, False)
            made = record(f"p{p}", s, correct, num_tokens=tokens, finish_reason=finish)
            records.append(replace(made, reason="no_answer") if outcome == "none" else made)
    return records


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


@given(SAMPLES)
@settings(max_examples=60)
def test_metrics_by_their_definitions(problems: Any) -> None:
    records = _records(problems)
    graded = [r for r in records if r.error is None]
    by_problem = [[r for r in graded if r.id == f"p{p}"] for p in range(len(problems))]
    lengths = [(r, r.num_tokens) for r in graded if r.num_tokens is not None]
    finished = [r for r in graded if r.finish_reason is not None]
    wanted = {
        "accuracy": _mean([bool(r.correct) for r in graded]),
        "avg_at_n": _mean([mean(bool(r.correct) for r in rs) for rs in by_problem if rs]),
        "truncation_rate": _mean([r.finish_reason == "length" for r in finished]),
        "no_answer_rate": _mean([r.reason == "no_answer" for r in graded]),
        "tokens": _mean([length for _, length in lengths]),
        "tokens_correct": _mean([length for r, length in lengths if r.correct]),
        "tokens_not_truncated": _mean(
            [length for r, length in lengths if r.finish_reason == "stop"]
        ),
    }
    found = summarize({"b": records}, num_bootstrap=50)["benchmarks"]["b"]
    for name, expected in wanted.items():
        got = found["metrics"][name]
        assert got["value"] == (expected if expected is None else pytest.approx(expected)), name
        if got["low"] is not None:
            assert got["low"] <= got["value"] <= got["high"]
    assert found["num_errors"] == len(records) - len(graded)
    assert found["num_samples"] == len(graded) == sum(found["reasons"].values())
    assert found["num_problems"] == len(problems)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(outcomes: list[bool], k: int) -> None:
    n, c = np.array([len(outcomes)], float), np.array([sum(outcomes)], float)
    if k > len(outcomes):
        assert np.isnan(pass_at_k(n, c, k)[0])
        return
    subsets = list(itertools.combinations(outcomes, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(n, c, k)[0] == pytest.approx(expected, abs=1e-12)
    formula = 1 - math.comb(len(outcomes) - sum(outcomes), k) / math.comb(len(outcomes), k)
    assert expected == pytest.approx(formula)


def test_pass_at_k_leaves_out_problems_with_too_few_samples() -> None:
    records = [record("a", s, s == 0) for s in range(4)]
    records += [record("b", 0, False), *(record("b", s, None) for s in range(1, 4))]
    assert value(records, "pass_at_k", k=2) == pytest.approx(0.5)  # of a alone
    assert value(records, "pass_at_k", k=1) == pytest.approx((0.25 + 0) / 2)
    with pytest.raises(ValueError, match=r"b: pass@5 needs 5 samples of a problem, there are 4"):
        summary(records, k=5)
    with pytest.raises(ValueError, match="k must be at least 1"):
        summary(records, k=0)


def _clustered(seed: int, num_problems: int, n: int) -> list[Record]:
    random = np.random.default_rng(seed)
    records = []
    for p, chance in enumerate(random.beta(0.6, 0.6, num_problems)):
        for s in range(n):
            correct = bool(random.random() < chance)
            tokens = int(random.lognormal(5.5 - chance, 0.4))
            records.append(record(f"{p:04}", s, correct, num_tokens=tokens))
    return records


@pytest.mark.parametrize("n", [1, 4])
def test_intervals_are_those_of_scipy_over_problems(n: int) -> None:
    num_problems = 150
    records = _clustered(1, num_problems, n)
    got = summarize({"b": records}, num_bootstrap=20_000)["benchmarks"]["b"]["metrics"]
    correct = np.array([r.correct for r in records], float).reshape(num_problems, n)
    tokens = np.array([r.num_tokens for r in records], float).reshape(num_problems, n)

    def over_correct(top: Any, bottom: Any, axis: int = -1) -> Any:
        return top.sum(axis) / bottom.sum(axis)

    stretched = math.sqrt(num_problems / (num_problems - 1)) * scipy.stats.t.ppf(
        0.975, num_problems - 1
    )
    options: Any = {
        "confidence_level": 2 * scipy.stats.norm.cdf(stretched) - 1,
        "method": "percentile", "n_resamples": 20_000, "rng": np.random.default_rng(2),
    }  # fmt: skip
    expected = {
        "accuracy": scipy.stats.bootstrap((correct.mean(1),), np.mean, **options),
        "tokens": scipy.stats.bootstrap((tokens.mean(1),), np.mean, **options),
        "tokens_correct": scipy.stats.bootstrap(
            ((tokens * correct).sum(1), correct.sum(1)), over_correct, paired=True, **options
        ),
    }
    for name, theirs in expected.items():
        low, high = theirs.confidence_interval
        near = 0.05 * (high - low)
        assert got[name]["low"] == pytest.approx(low, abs=near), name
        assert got[name]["high"] == pytest.approx(high, abs=near), name


def test_interval_width_is_that_of_clustered_standard_errors() -> None:
    """statsmodels' cluster-robust error of a mean; an error that ignores clusters is far less."""
    records = _clustered(3, 300, 8)
    got = summarize({"b": records})["benchmarks"]["b"]["metrics"]["accuracy"]
    outcomes = np.array([r.correct for r in records], float)
    groups = np.array([int(r.id) for r in records])
    fit = sm.OLS(outcomes, np.ones(len(outcomes))).fit(
        cov_type="cluster", cov_kwds={"groups": groups}
    )
    half = (got["high"] - got["low"]) / 2
    assert half == pytest.approx(1.96 * fit.bse[0], rel=0.05)
    assert half > 1.5 * 1.96 * outcomes.std() / math.sqrt(len(outcomes))


@pytest.mark.parametrize("num_problems", [3, 20, 300])
@pytest.mark.parametrize("correct", [False, True])
def test_nothing_or_everything_right_has_the_exact_interval(
    num_problems: int, correct: bool
) -> None:
    records = [record(str(p), s, correct) for p in range(num_problems) for s in range(2)]
    got = summarize({"b": records}, num_bootstrap=40_000)["benchmarks"]["b"]["metrics"]["accuracy"]
    low, high = proportion_confint(num_problems * correct, num_problems, 0.05, method="beta")
    exact, ours = (1 - low, 1 - got["low"]) if correct else (high, got["high"])
    assert exact * 0.97 <= ours  # never narrower but by chance
    assert ours <= max(exact * 1.25, exact + 0.05) or num_problems == 3
    assert (got["high"] if correct else got["low"]) == float(correct) == got["value"]


@pytest.mark.parametrize(
    ("num_problems", "n", "shape"), [(8, 4, 2.0), (25, 1, 2.0), (40, 4, 0.6), (150, 8, 0.6)]
)
def test_intervals_cover_the_truth(num_problems: int, n: int, shape: float) -> None:
    """Nominal 95 % over 600 simulated benchmarks of known accuracy; Monte Carlo error 0.9 %."""
    random = np.random.default_rng(7)
    num_runs, truth = 600, 0.5
    covered = ignoring_clusters = 0
    for _ in range(num_runs):
        chances = random.beta(shape, shape, (num_problems, 1))
        outcomes = (random.random((num_problems, n)) < chances).astype(float)
        for clustered in (True, False):
            sums = outcomes.sum(1, keepdims=True) if clustered else outcomes.reshape(-1, 1)
            counts = np.full_like(sums, n if clustered else 1)
            resamples = resample_ratios(sums, counts, 400, random)[:, 0]
            found = percentile_interval(ratio(sums, counts)[0], resamples, len(sums))
            assert found is not None
            inside = found[0] <= truth <= found[1]
            covered += clustered and inside
            ignoring_clusters += not clustered and inside
    print(f"covered {covered / num_runs:.3f}, ignoring clusters {ignoring_clusters / num_runs:.3f}")
    assert 0.925 <= covered / num_runs <= 0.985
    if n > 1:
        assert ignoring_clusters < covered - 0.02 * num_runs


def test_an_average_is_over_benchmarks_and_resampled_within_them() -> None:
    small, large = _clustered(4, 60, 1), _clustered(5, 400, 1)
    found = summarize({"small": small, "large": large}, num_bootstrap=20_000)
    parts = {name: found["benchmarks"][name]["metrics"] for name in ("small", "large")}
    average = found["average"]["metrics"]
    for name in ("accuracy", "tokens", "no_answer_rate"):
        values = [parts[b][name]["value"] for b in parts]
        assert average[name]["value"] == pytest.approx(mean(values))
    errors = [
        np.std([float(r.correct or 0) for r in records]) / math.sqrt(len(records))
        for records in (small, large)
    ]
    half = (average["accuracy"]["high"] - average["accuracy"]["low"]) / 2
    assert half == pytest.approx(1.96 * math.hypot(*errors) / 2, rel=0.08)
    both = summarize({"small": small, "other": [record("x", correct=None)]}, num_bootstrap=100)
    assert both["average"]["metrics"]["accuracy"]["value"] is None  # never over fewer, silently
    assert both["benchmarks"]["other"]["num_errors"] == 1
    alone = summarize({"small": small}, num_bootstrap=20_000)
    assert alone["benchmarks"]["small"] == found["benchmarks"]["small"]


def test_records_in_any_order_and_repeated() -> None:
    records = _clustered(6, 30, 2)
    once = summary(records)
    retried = [replace(r, correct=None, error="no route") for r in records[:20]] + records[::-1]
    assert summary(retried) == once
    assert summary(iter(records)) == once  # type: ignore[arg-type]


def test_small_and_strange_runs() -> None:
    assert set(summary([])["metrics"]) == set(METRICS)
    assert all(m["value"] is None for m in summary([])["metrics"].values())
    alone = summary([record("a"), record("a", 1, False)])["metrics"]["accuracy"]
    assert alone == {"value": 0.5, "low": None, "high": None}
    with pytest.raises(ValueError, match="'a', sample 0: has neither a verdict nor an error"):
        summary([replace(record("a", correct=None), error=None)])
    assert summarize({})["average"]["metrics"]["accuracy"]["value"] is None


def test_ten_thousand_records_are_fast_and_their_texts_are_dropped() -> None:
    def records(text: str) -> Iterator[Record]:
        for i in range(10_000):
            yield record(f"{i}", correct=i % 3 == 0, response=f"{i}{text}", num_tokens=i % 777)

    made = list(records(""))
    start = time.process_time()
    found = summarize({"b": made})
    assert found["benchmarks"]["b"]["num_samples"] == 10_000
    assert time.process_time() - start < 10
    peaks_bytes = []
    for text in ("", "x" * 10_000):
        tracemalloc.start()
        summarize({"b": records(text)}, num_bootstrap=10)
        peaks_bytes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks_bytes[1] - peaks_bytes[0] < 5e6  # of 100 MB of text


@pytest.mark.parametrize("column", ["response", "response_clean"])
def test_real_rollouts_have_their_known_accuracy(data_folder: Path, column: str) -> None:
    lines = (data_folder / "gsm8k_rollouts.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    pool = GraderPool(2, 10.0)
    try:
        pending = [pool.submit(row[column], parse_label(row["answer"])) for row in rows]
        verdicts = [p.result() for p in pending]
    finally:
        pool.close()
    by_model: dict[str, list[Record]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        made = record(
            str(row["gsm8k_test_index"]),
            correct=verdict.correctness == 1,
            reason=verdict.reason.value,
            num_tokens=len(row[column].split()),
        )
        by_model.setdefault(row["source_model"], []).append(made)
    found = summarize(by_model)
    assert found["average"]["metrics"]["accuracy"]["value"] == pytest.approx(0.5, abs=0.01)
    for name, records in by_model.items():
        known = mean(row["is_correct"] for row in rows if row["source_model"] == name)
        got = found["benchmarks"][name]
        assert got["metrics"]["accuracy"]["value"] == pytest.approx(known, abs=0.01)
        low, high = proportion_confint(len(records) * known, len(records), method="wilson")
        assert got["metrics"]["accuracy"]["low"] == pytest.approx(low, abs=0.015)
        assert got["metrics"]["accuracy"]["high"] == pytest.approx(high, abs=0.015)
        lengths = [len(row[column].split()) for row in rows if row["source_model"] == name]
        assert got["metrics"]["tokens"]["value"] == pytest.approx(mean(lengths))
