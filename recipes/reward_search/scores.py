"""The scores of one evaluation, and the ranking of candidates by them.

The problems of each benchmark are numbered in the order of their ids. Even-numbered ones rank the
candidates and are fed back; odd-numbered ones compare the finalists. What was best among many on
the problems that ranked it looks better there than it is, and no ranking has seen the others.
Problems of several benchmarks count alike.

F1 is what arXiv:2605.02073 ranks by. It gives no formula; its figures fit F1 = 2a / (1 + a), with
accuracy a over all problems: recall is a, and precision is 1. So F1 orders as accuracy does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from eval.records import Record, iter_records
from eval.statistics.bootstrap import make_generator, ratio, resample_ratios
from eval.statistics.metrics import NUM_RESAMPLES, Estimate, Resampled, resample
from eval.statistics.paired import compare_benchmark
from eval.statistics.samples import Floats, Samples, collect_samples
from recipes.reward_search.settings import RankBy

Part = Literal["ranking", "comparison"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Scores:
    """One reward's scores after its training run. None: undefined."""

    accuracy: float | None
    f1: float | None
    """2a / (1 + a) of the accuracy a."""
    precision: float | None
    """Share of right answers among the responses that have an answer."""
    tokens: float | None
    """Mean length of a response."""
    aes: float | None
    """Against correctness alone: relative length saved + 5 x relative accuracy gained."""


@dataclass(frozen=True)
class Estimates:
    """The same, with intervals from a bootstrap over problems."""

    accuracy: Estimate
    f1: Estimate
    precision: Estimate
    tokens: Estimate
    aes: Estimate

    def to_json(self) -> dict[str, Any]:
        return {name: estimate.to_json() for name, estimate in vars(self).items()}


def read_samples(evaluation: Path, part: Part, *, first_only: bool = False) -> Samples:
    """Reads one part of an evaluation. Ids get the benchmark's name: "gsm8k/17".

    Args:
        first_only: only the first response to each problem, as McNemar's test needs it.
    Raises:
        ValueError: the evaluation cannot be read, has errors, or has no problem of this part.
    """
    samples = collect_samples(_iter_part(evaluation, part, first_only))
    if samples.num_errors or not samples.num_problems:
        found = f"{samples.num_errors} errors" if samples.num_errors else f"no problem for {part}"
        raise ValueError(f"{evaluation}: {found}")
    return samples


def _iter_part(evaluation: Path, part: Part, first_only: bool) -> Iterator[Record]:
    for file in sorted(evaluation.glob("*.jsonl")):  # one for each benchmark
        records = list(iter_records(file))
        ids = sorted({record.id for record in records}, key=_sort_key)
        chosen = set(ids[0 if part == "ranking" else 1 :: 2])
        for record in records:
            if record.id in chosen and not (first_only and record.sample):
                yield replace(record, id=f"{file.stem}/{record.id}")


def _sort_key(problem: str) -> list[tuple[int, str]]:
    """Orders the numbers in ids by their size: "9" before "10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part)
            for part in re.split(r"([0-9]+)", problem) if part]  # fmt: skip


def score(samples: Samples, baseline: Samples) -> Scores:
    """
    Args:
        baseline: of the run on correctness alone, over the same problems.
    """
    found = _resample(samples, baseline, num_resamples=1)  # their values need none
    return Scores(**{n: None if np.isnan(one.value) else one.value for n, one in found.items()})


def estimate(samples: Samples, baseline: Samples) -> Estimates:
    """As `score`, with intervals."""
    found = _resample(samples, baseline, NUM_RESAMPLES)
    return Estimates(**{name: one.estimate() for name, one in found.items()})


def _resample(samples: Samples, baseline: Samples, num_resamples: int) -> dict[str, Resampled]:
    random = make_generator(0, "reward search")
    metrics = resample(samples, 1, num_resamples, random)
    accuracy = metrics["accuracy"]
    values_R = f1(accuracy.resamples_R)
    return {
        "accuracy": accuracy,
        "f1": Resampled(float(f1(np.array(accuracy.value))), values_R, accuracy.num_problems),
        "precision": _measure_precision(samples, num_resamples, random),
        "tokens": metrics["tokens"],
        "aes": compare_benchmark(baseline, samples, num_resamples, random).aes,
    }


def f1(accuracy: Floats) -> Floats:
    """F1 as the paper's figures fit it: recall is the accuracy, and precision is 1."""
    return 2 * accuracy / (1 + accuracy)


def _measure_precision(
    samples: Samples, num_resamples: int, random: np.random.Generator
) -> Resampled:
    right_P1 = samples.sum_per_problem(samples.correct_N)[:, None]
    answered_P1 = samples.sum_per_problem(1.0 - samples.no_answer_N)[:, None]
    value = float(ratio(right_P1, answered_P1)[0])
    resamples_R = resample_ratios(right_P1, answered_P1, num_resamples, random)[:, 0]
    return Resampled(value, resamples_R, int((answered_P1 > 0).sum()))


def rank(scores: Mapping[str, Scores], by: RankBy) -> list[str]:
    """The names, best first. Equal ones: the shorter responses first, then by name."""

    def key(name: str) -> tuple[float, float, str]:
        one = scores[name]
        value = one.aes if by == "aes" else one.f1
        return (
            np.inf if value is None else -value,  # undefined: last
            np.inf if one.tokens is None else one.tokens,
            name,
        )

    return sorted(scores, key=key)
