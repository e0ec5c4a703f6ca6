"""What the arms achieved: accuracy and length on unseen problems, with bootstrap intervals.

Intervals are 95 %, over problems and training seeds: each resample draws both with replacement, and
the same ones for both arms of a difference. Three seeds say little of what a fourth would do, so
each seed's own figures stand beside them.

Shapes: S seeds, P problems, R resamples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.bootstrap import interval
from eval.metrics import NUM_RESAMPLES, Estimate
from eval.records import iter_records, records_path
from eval.samples import Floats, collect
from recipes.cpu_demo.plan import BASELINE, Arm, Run


@dataclass(frozen=True)
class Measured:
    """Means over the samples of each problem, of all seeds of an arm."""

    correct_SP: Floats
    tokens_SP: Floats


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
    """Over the baseline, shares of 1; None for the baseline and before training."""
    tokens_gain: Estimate | None
    """Over the baseline, as a share of its length."""

    def to_json(self) -> dict[str, Any]:
        values = dict(vars(self))
        return values | {k: v.to_json() for k, v in values.items() if isinstance(v, Estimate)}


def measure(evaluations: Sequence[Path]) -> Measured:
    """The evaluations of one arm's seeds.

    Raises:
        ValueError: one has errors, or other problems than the first.
    """
    all_samples = [collect(iter_records(records_path(folder, "demo"))) for folder in evaluations]
    for folder, samples in zip(evaluations, all_samples, strict=True):
        if samples.num_errors or samples.ids != all_samples[0].ids:
            raise ValueError(f"{folder}: errors, or not the problems of {evaluations[0]}")
    return Measured(
        np.stack([samples.problem_means(samples.correct_N) for samples in all_samples]),
        np.stack([samples.problem_means(samples.num_tokens_N) for samples in all_samples]),
    )


def rows(runs: Sequence[Run], start: Path) -> list[Row]:
    """The table: the model that all start from, then an arm a line."""
    by_arm: dict[Arm, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    measured = {arm: measure([r.evaluation for r in ofarm]) for arm, ofarm in by_arm.items()}
    baseline = measured[BASELINE]
    table = [_row("nothing yet", (), measure([start]), None)]
    for arm, of_arm in by_arm.items():
        seeds = tuple(run.seed for run in of_arm)
        against = None if arm is BASELINE else baseline
        table.append(_row(arm.title, seeds, measured[arm], against))
    return table


def _row(title: str, seeds: tuple[int, ...], measured: Measured, baseline: Measured | None) -> Row:
    correct_SP, tokens_SP = measured.correct_SP, measured.tokens_SP
    num_problems = correct_SP.shape[1]

    def estimate(value: float, resamples_R: Floats) -> Estimate:
        return Estimate(value, *(interval(value, resamples_R, num_problems) or (None, None)))

    draws = _Draws(*correct_SP.shape)
    accuracy_R, length_R = draws.means(correct_SP), draws.means(tokens_SP)
    accuracy_gain = tokens_gain = None
    if baseline is not None:
        # Of the baseline, the same seeds.
        base_correct_SP = baseline.correct_SP[: len(correct_SP)]
        base_tokens_SP = baseline.tokens_SP[: len(tokens_SP)]
        base_length_R = draws.means(base_tokens_SP)
        accuracy_gain = estimate(
            float(correct_SP.mean() - base_correct_SP.mean()),
            accuracy_R - draws.means(base_correct_SP),
        )
        tokens_gain = estimate(
            float(tokens_SP.mean() / base_tokens_SP.mean() - 1), length_R / base_length_R - 1
        )
    return Row(
        title=title,
        seeds=seeds,
        accuracy=estimate(float(correct_SP.mean()), accuracy_R),
        tokens=estimate(float(tokens_SP.mean()), length_R),
        accuracy_of_seeds=tuple(correct_SP.mean(axis=1).tolist()),
        tokens_of_seeds=tuple(tokens_SP.mean(axis=1).tolist()),
        accuracy_gain=accuracy_gain,
        tokens_gain=tokens_gain,
    )


class _Draws:
    """How often each seed and each problem is drawn, in each resample; the same for all values."""

    def __init__(self, num_seeds: int, num_problems: int) -> None:
        random = np.random.default_rng([0, num_seeds])
        self._seeds_RS = _shares(num_seeds, random)
        self._problems_RP = _shares(num_problems, random)

    def means(self, values_SP: Floats) -> Floats:
        """(R,) means over the drawn seeds and problems."""
        found: Floats = np.einsum("rs,sp,rp->r", self._seeds_RS, values_SP, self._problems_RP)
        return found


def _shares(count: int, random: np.random.Generator) -> Floats:
    return random.multinomial(count, np.full(count, 1 / count), NUM_RESAMPLES) / count


def markdown(table: Sequence[Row]) -> str:
    """The table as it stands in the README."""
    lines = [
        "| trained on | accuracy | tokens | accuracy gained | length | of each seed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in table:
        each = ", ".join(
            f"{100 * accuracy:.1f} / {tokens:.1f}"
            for accuracy, tokens in zip(row.accuracy_of_seeds, row.tokens_of_seeds, strict=True)
        )
        cells = (
            row.title,
            _shown(row.accuracy, 100, "%"),
            _shown(row.tokens, 1, ""),
            _shown(row.accuracy_gain, 100, "", "+"),
            _shown(row.tokens_gain, 100, "%", "+"),
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
