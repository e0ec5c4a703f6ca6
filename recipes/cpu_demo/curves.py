"""Draws the learning curves (length, correctness and SAR of the sampled responses), and the final
models' accuracy against their length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.figures import COLOURS, make_figure
from eval.statistics.metrics import Estimate
from eval.statistics.samples import Floats
from recipes.cpu_demo.results import Row, read_steps
from recipes.training_run.run import Run

_PANELS = (
    ("completions/mean_length", "response length (tokens)"),
    ("correctness", "correctness"),
    ("sar", "SAR"),
)
_WINDOW_STEPS = 15
_NUM_LEGEND_COLUMNS = 3


def draw_curves(runs: Sequence[Run], file: Path) -> None:
    """Draws a thin smoothed line for each run and a thick one for each arm's mean."""
    figure, all_axes = make_figure(10.5, 3.4, 1, len(_PANELS))
    steps = {run: read_steps(run) for run in runs}
    for axes, (name, label) in zip(all_axes, _PANELS, strict=True):
        _draw_panel(axes, {run: smooth([step[name] for step in steps[run]]) for run in runs})
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    title = f"thick: mean of the seeds; running means over {_WINDOW_STEPS} steps"
    figure.legend(
        handles, labels, frameon=False, ncols=_NUM_LEGEND_COLUMNS, loc="outside lower center",
        title=title, title_fontsize=9,
    )  # fmt: skip
    figure.savefig(file, dpi=140)


def smooth(values: Sequence[float]) -> Floats:
    """Running mean: each value becomes the mean of at most `_WINDOW_STEPS` values up to it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - _WINDOW_STEPS, 0)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _draw_panel(axes: Any, curves: dict[Run, Floats]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4")
    (num_steps,) = {len(curve) for curve in curves.values()}
    steps = np.arange(1, num_steps + 1)
    arms = list(dict.fromkeys(run.arm for run in curves))
    for arm, colour in zip(arms, COLOURS[: len(arms)], strict=True):
        arm_curves = [curve for run, curve in curves.items() if run.arm is arm]
        for curve in arm_curves:
            axes.plot(steps, curve, color=colour, lw=0.7, alpha=0.45)
        axes.plot(steps, np.mean(arm_curves, axis=0), color=colour, lw=2, label=arm.title)


def draw_tradeoff(table: Sequence[Row], file: Path) -> None:
    """Draws accuracy against length: a large dot with its intervals for each row of the table, and
    a small one for each seed. Up and to the left is better."""
    figure, axes = make_figure(7.2, 4.4, 1, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4")
    start, *arms = table
    _draw_row(axes, start, "#808080", "s")
    for row, colour in zip(arms, COLOURS[: len(arms)], strict=True):
        _draw_row(axes, row, colour, "o")
    axes.set_xlabel("response length (tokens)")
    axes.set_ylabel("accuracy (%)")
    figure.legend(frameon=False, loc="outside right upper", title="trained on", title_fontsize=9)
    figure.savefig(file, dpi=140)


def _draw_row(axes: Any, row: Row, colour: str, marker: str) -> None:
    accuracy, tokens = row.accuracy, row.tokens
    assert accuracy.value is not None
    assert tokens.value is not None
    for one, seed_tokens in zip(row.accuracy_of_seeds, row.tokens_of_seeds, strict=True):
        axes.plot(seed_tokens, 100 * one, marker, color=colour, ms=3, alpha=0.5)
    axes.errorbar(
        tokens.value, 100 * accuracy.value,
        xerr=_measure_bar(tokens, 1), yerr=_measure_bar(accuracy, 100),
        fmt=marker, color=colour, ms=7, lw=1, label=row.title,
    )  # fmt: skip


def _measure_bar(estimate: Estimate, scale: float) -> list[list[float]] | None:
    """The lengths of an error bar below and above the value."""
    low, high, value = estimate.low, estimate.high, estimate.value
    if low is None or high is None or value is None:
        return None
    return [[scale * (value - low)], [scale * (high - value)]]
