"""What the arms achieved: accuracy and length on unseen problems, with bootstrap intervals.

Intervals are 95 %, over problems, for the seeds that were trained: what another seed would do they
do not say. Three are too few for an interval; each one's figures stand beside them instead.

Shapes: S seeds, P problems, C columns that are resampled together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.records import iter_records, records_path
from eval.statistics.bootstrap import make_generator, resample_ratios
from eval.statistics.metrics import NUM_RESAMPLES, Estimate, Resampled
from eval.statistics.samples import Floats, collect_samples
from recipes.cpu_demo.plan import ARMS, BASELINE, Run


@dataclass(frozen=True)
class Measured:
    """Means over the samples of each problem, of some seeds of an arm."""

    problems: tuple[str, ...]
    seeds: tuple[int, ...]
    correct_SP: Floats
    tokens_SP: Floats

    def of_seeds(self, seeds: tuple[int, ...]) -> Measured:
        """
        Raises:
            ValueError: a seed is not among them.
        """
        rows = [self.seeds.index(seed) for seed in seeds]
        return Measured(self.problems, seeds, self.correct_SP[rows], self.tokens_SP[rows])


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    seeds: tuple[int, ...]
    accuracy: Estimate
    tokens: Estimate
    accuracy_of_seeds: tuple[float, ...]
    tokens_of_seeds: tuple[float, ...]
    accuracy_gain: Estimate | None
    """Over the same seeds of the baseline, shares of 1; None for itself and before training."""
    tokens_gain: Estimate | None
    """Likewise, as a share of the baseline's length."""

    def to_json(self) -> dict[str, Any]:
        values = dict(vars(self))
        return values | {k: v.to_json() for k, v in values.items() if isinstance(v, Estimate)}


def rows(runs: Sequence[Run], start: Path) -> list[Row]:
    """The table: the model that all start from, then an arm a line."""
    measured = {arm: measure([run for run in runs if run.arm is arm]) for arm in ARMS}
    of_start = _measured([start], seeds=())
    table = [row("nothing yet", of_start, None)]
    for arm, of_arm in measured.items():
        if of_arm:
            table.append(row(arm.title, of_arm, None if arm is BASELINE else measured[BASELINE]))
    return table


def measure(runs: Sequence[Run]) -> Measured | None:
    """The evaluations of one arm's runs; None where there are none."""
    seeds = tuple(run.seed for run in runs)
    return _measured([run.evaluation for run in runs], seeds) if runs else None


def _measured(evaluations: Sequence[Path], seeds: tuple[int, ...]) -> Measured:
    """
    Raises:
        ValueError: an evaluation has errors, or other problems than the first.
    """
    all_samples = [
        collect_samples(iter_records(records_path(folder, "demo"))) for folder in evaluations
    ]
    for folder, samples in zip(evaluations, all_samples, strict=True):
        if samples.num_errors or samples.ids != all_samples[0].ids:
            raise ValueError(f"{folder}: errors, or not the problems of {evaluations[0]}")
    return Measured(
        all_samples[0].ids,
        seeds,
        np.stack([samples.mean_per_problem(samples.correct_N) for samples in all_samples]),
        np.stack([samples.mean_per_problem(samples.num_tokens_N) for samples in all_samples]),
    )


def row(title: str, measured: Measured, baseline: Measured | None) -> Row:
    """One arm, and what it gained over the same seeds and problems of the baseline.

    Raises:
        ValueError: the baseline lacks a seed, or has other problems.
    """
    against = measured if baseline is None else baseline.of_seeds(measured.seeds)
    if against.problems != measured.problems:
        raise ValueError(f"{title}: evaluated on other problems than the baseline")
    columns_PC = np.stack(
        [
            values_SP.mean(axis=0)
            for one in (measured, against)
            for values_SP in (one.correct_SP, one.tokens_SP)
        ],
        axis=1,
    )
    resamples_RC = resample_ratios(
        columns_PC, np.ones_like(columns_PC), NUM_RESAMPLES, make_generator(0, "train-demo")
    )

    def estimate(values: Floats, resamples_R: Floats) -> Estimate:
        return Resampled(float(values), resamples_R, len(columns_PC)).estimate()

    accuracy, tokens, base_accuracy, base_tokens = columns_PC.mean(axis=0)
    accuracy_R, tokens_R, base_accuracy_R, base_tokens_R = resamples_RC.T
    return Row(
        title=title,
        seeds=measured.seeds,
        accuracy=estimate(accuracy, accuracy_R),
        tokens=estimate(tokens, tokens_R),
        accuracy_of_seeds=tuple(measured.correct_SP.mean(axis=1).tolist()),
        tokens_of_seeds=tuple(measured.tokens_SP.mean(axis=1).tolist()),
        accuracy_gain=None
        if baseline is None
        else estimate(accuracy - base_accuracy, accuracy_R - base_accuracy_R),
        tokens_gain=None
        if baseline is None
        else estimate(tokens / base_tokens - 1, tokens_R / base_tokens_R - 1),
    )


def markdown(table: Sequence[Row]) -> str:
    """The table as it stands in the README."""
    lines = [
        "| trained on | accuracy | tokens | accuracy, points | length | each seed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in table:
        each = ", ".join(
            f"{100 * accuracy:.1f} / {tokens:.1f}"
            for accuracy, tokens in zip(one.accuracy_of_seeds, one.tokens_of_seeds, strict=True)
        )
        cells = (
            one.title,
            _shown(one.accuracy, 100, "%"),
            _shown(one.tokens, 1, ""),
            _shown(one.accuracy_gain, 100, "", "+"),
            _shown(one.tokens_gain, 100, "%", "+"),
            each,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(estimate: Estimate | None, scale: float, unit: str, sign: str = "") -> str:
    if estimate is None:
        return ""
    assert estimate.value is not None
    text = f"{scale * estimate.value:{sign}.1f}{unit}"
    if estimate.low is not None and estimate.high is not None:
        text += f" ({scale * estimate.low:{sign}.1f} to {scale * estimate.high:{sign}.1f})"
    return text


def read_steps(run: Run) -> list[dict[str, float]]:
    """The numbers of each training step, in order."""
    return [json.loads(line) for line in run.steps_file.read_text().splitlines()]
