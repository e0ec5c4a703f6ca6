"""Draws the learning curves: length, correctness and SAR of the sampled responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.figures import COLOURS, make_figure
from eval.statistics.samples import Floats
from recipes.cpu_demo.plan import ARMS, Run
from recipes.cpu_demo.results import read_steps

_PANELS = (
    ("completions/mean_length", "response length (tokens)"),
    ("correctness", "correctness"),
    ("sar", "SAR"),
)
_WINDOW_STEPS = 15


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
        handles, labels, frameon=False, ncols=len(ARMS), loc="outside lower center",
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
    for arm, colour in zip(ARMS, COLOURS, strict=False):
        arm_curves = [curve for run, curve in curves.items() if run.arm is arm]
        for curve in arm_curves:
            axes.plot(steps, curve, color=colour, lw=0.7, alpha=0.45)
        if arm_curves:
            axes.plot(steps, np.mean(arm_curves, axis=0), color=colour, lw=2, label=arm.title)
