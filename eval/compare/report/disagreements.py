"""Problems on which a run does better or worse than the baseline, with the responses of both.

Texts are read from the records again, only for the problems shown. So memory does not grow with
the runs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from eval.compare.comparison import Comparison, Run, RunPair
from eval.records import Record, iter_records, records_path
from eval.statistics.samples import Samples


@dataclass(frozen=True)
class Side:
    """One sample of a problem, and how many of the run's samples of it are correct."""

    correct: bool
    response: str
    answer: str | None
    reason: str | None
    num_tokens: int | None
    finish_reason: str | None
    sample: int
    num_correct: int
    num_samples: int


@dataclass(frozen=True)
class Disagreement:
    """One problem. With several samples, each side shows one that illustrates the difference."""

    pair: int
    """Index into the comparison's pairs."""
    benchmark: str
    id: str
    direction: str
    """"gained" if the other run is correct more often than the baseline, else "lost"."""
    question: str
    label: str
    prompts: tuple[str, str]
    """Of the baseline and the other run. They differ only with --allow-different-inputs."""
    baseline: Side
    other: Side


@dataclass(frozen=True)
class Disagreements:
    shown: list[Disagreement]
    num_all: int


def find_disagreements(
    comparison: Comparison, *, max_per_benchmark: int, seed: int
) -> Disagreements:
    """Problems whose share of correct samples differs between the baseline and another run.

    Args:
        max_per_benchmark: problems per benchmark and pair of runs; of more, this many are drawn.
        seed: of that draw.
    """
    shown: list[Disagreement] = []
    num_all = 0
    for index, pair in enumerate(comparison.pairs):
        for benchmark in comparison.benchmarks:
            directions = _find_directions(comparison, pair, benchmark)
            num_all += len(directions)
            chosen = sorted(directions)
            if len(chosen) > max_per_benchmark:
                chosen = sorted(random.Random(seed).sample(chosen, max_per_benchmark))
            kept = {id_: directions[id_] for id_ in chosen}
            shown += _make_disagreements(comparison, index, benchmark, kept)
    return Disagreements(shown, num_all)


def _find_directions(comparison: Comparison, pair: RunPair, benchmark: str) -> dict[str, str]:
    """Problem id -> direction, for the problems that differ."""
    baseline, other = (
        _compute_correct_shares(run.samples[benchmark]) for run in (comparison.baseline, pair.other)
    )
    return {
        id_: "gained" if other[id_] > share else "lost"
        for id_, share in baseline.items()
        if other.get(id_, share) != share
    }


def _compute_correct_shares(samples: Samples) -> dict[str, float]:
    shares_P = samples.mean_per_problem(samples.correct_N)
    return {
        id_: float(share)
        for id_, share in zip(samples.ids, shares_P, strict=True)
        if not np.isnan(share)
    }


def _make_disagreements(
    comparison: Comparison, pair: int, benchmark: str, directions: dict[str, str]
) -> list[Disagreement]:
    baseline = _read_records(comparison.baseline, benchmark, directions)
    other = _read_records(comparison.pairs[pair].other, benchmark, directions)
    found = []
    for id_, direction in directions.items():
        gained = direction == "gained"
        before, before_record = _make_side(baseline[id_], correct=not gained)
        after, after_record = _make_side(other[id_], correct=gained)
        found.append(
            Disagreement(
                pair=pair,
                benchmark=benchmark,
                id=id_,
                direction=direction,
                question=before_record.question,
                label=before_record.label,
                prompts=(before_record.prompt, after_record.prompt),
                baseline=before,
                other=after,
            )
        )
    return found


def _read_records(run: Run, benchmark: str, ids: Iterable[str]) -> dict[str, list[Record]]:
    """Graded records of some problems, by id, ordered by sample. The last record of each counts."""
    wanted = set(ids)
    latest = {
        record.key: record
        for record in iter_records(records_path(run.folder, benchmark))
        if record.id in wanted
    }
    found: dict[str, list[Record]] = {id_: [] for id_ in wanted}
    for (id_, _), record in sorted(latest.items()):
        if record.error is None:
            found[id_].append(record)
    return found


def _make_side(records: list[Record], *, correct: bool) -> tuple[Side, Record]:
    """The first sample with this verdict. There is one, because the runs' shares of correct samples
    differ in that direction."""
    record = next(r for r in records if bool(r.correct) is correct)
    side = Side(
        correct=correct,
        response=record.response or "",
        answer=record.answer,
        reason=record.reason,
        num_tokens=record.num_tokens,
        finish_reason=record.finish_reason,
        sample=record.sample,
        num_correct=sum(bool(r.correct) for r in records),
        num_samples=len(records),
    )
    return side, record
