"""The results table: each arm's accuracy and length on unseen problems, with bootstrap intervals.

Intervals are 95 % and resample problems. They hold for the seeds that were trained and say nothing
about other seeds. Three seeds are too few for an interval over seeds, so the table shows the values
of each seed.

Shapes: S seeds, P problems, C columns resampled together, R resamples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.records import iter_records, records_path
from eval.statistics.bootstrap import make_generator, resample_ratios
from eval.statistics.metrics import NUM_RESAMPLES, Estimate, Resampled
from eval.statistics.samples import Floats, Samples, collect_samples
from recipes.cpu_demo.arms import ALL_ARMS, BASELINE
from recipes.training_run.run import Run


@dataclass(frozen=True)
class Measurement:
    """The evaluations of one arm: for each seed, means over the samples of each problem."""

    problems: tuple[str, ...]
    seeds: tuple[int, ...]
    correct_SP: Floats
    tokens_SP: Floats

    def select_seeds(self, seeds: tuple[int, ...]) -> Measurement:
        """
        Raises:
            ValueError: a seed was not measured.
        """
        rows = [self.seeds.index(seed) for seed in seeds]
        return Measurement(self.problems, seeds, self.correct_SP[rows], self.tokens_SP[rows])


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
    """Over the same seeds of the baseline, from -1 to 1. None for baseline and start model."""
    tokens_gain: Estimate | None
    """The same, as a share of the baseline's length."""

    def to_json(self) -> dict[str, Any]:
        values = dict(vars(self))
        return values | {k: v.to_json() for k, v in values.items() if isinstance(v, Estimate)}


def build_table(runs: Sequence[Run], start: Path) -> list[Row]:
    """Builds the table: the start model, then one row for each arm.

    Args:
        start: folder of the start model's evaluation.
    """
    measurements = {
        arm: measure([run.evaluation for run in arm_runs], tuple(run.seed for run in arm_runs))
        for arm in ALL_ARMS
        if (arm_runs := [run for run in runs if run.arm is arm])
    }
    table = [build_row("nothing yet", measure([start], seeds=()), None)]
    for arm, measurement in measurements.items():
        baseline = None if arm is BASELINE else measurements[BASELINE]
        table.append(build_row(arm.title, measurement, baseline))
    return table


def measure(evaluations: Sequence[Path], seeds: tuple[int, ...]) -> Measurement:
    """Reads the evaluations of one arm's runs.

    Raises:
        ValueError: an evaluation has errors, or other problems than the first one.
    """
    return measure_samples(
        {
            str(folder): collect_samples(iter_records(records_path(folder, "demo")))
            for folder in evaluations
        },
        seeds,
    )


def measure_samples(samples_by_name: Mapping[str, Samples], seeds: tuple[int, ...]) -> Measurement:
    """As `measure`.

    Args:
        samples_by_name: of the arm's runs, in their order.
    """
    first = next(iter(samples_by_name))
    all_samples = list(samples_by_name.values())
    for name, samples in samples_by_name.items():
        if samples.num_errors or samples.ids != all_samples[0].ids:
            raise ValueError(f"{name}: has errors, or other problems than {first}")
    return Measurement(
        all_samples[0].ids,
        seeds,
        np.stack([samples.mean_per_problem(samples.correct_N) for samples in all_samples]),
        np.stack([samples.mean_per_problem(samples.num_tokens_N) for samples in all_samples]),
    )


def build_row(title: str, measured: Measurement, baseline: Measurement | None) -> Row:
    """Builds the row of one arm, with its gain over the same seeds of the baseline.

    Raises:
        ValueError: the baseline lacks a seed, or has other problems.
    """
    against = measured if baseline is None else baseline.select_seeds(measured.seeds)
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


def format_table(table: Sequence[Row]) -> str:
    """Formats the table as Markdown, as in the README."""
    lines = [
        "| trained on | accuracy | tokens | accuracy, points | length "
        "| accuracy / tokens of each seed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in table:
        each_seed = ", ".join(
            f"{100 * accuracy:.1f} / {tokens:.1f}"
            for accuracy, tokens in zip(row.accuracy_of_seeds, row.tokens_of_seeds, strict=True)
        )
        cells = (
            row.title,
            _format_estimate(row.accuracy, 100, "%"),
            _format_estimate(row.tokens, 1, ""),
            _format_estimate(row.accuracy_gain, 100, "", "+"),
            _format_estimate(row.tokens_gain, 100, "%", "+"),
            each_seed,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _format_estimate(estimate: Estimate | None, scale: float, unit: str, sign: str = "") -> str:
    if estimate is None:
        return ""
    assert estimate.value is not None
    text = f"{scale * estimate.value:{sign}.1f}{unit}"
    if estimate.low is not None and estimate.high is not None:
        text += f" ({scale * estimate.low:{sign}.1f} to {scale * estimate.high:{sign}.1f})"
    return text


def read_steps(run: Run) -> list[dict[str, float]]:
    """Reads the numbers of each training step, in order."""
    return [json.loads(line) for line in run.steps_file.read_text().splitlines()]
