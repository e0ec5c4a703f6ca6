"""Draws the learning curves: length, correctness and SAR of the sampled responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.statistics.samples import Floats
from recipes.cpu_demo.plan import ARMS, Run
from recipes.cpu_demo.results import read_steps

_PANELS = (
    ("completions/mean_length", "response length (tokens)"),
    ("correctness", "correctness"),
    ("sar", "SAR"),
)
# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = dict(zip((arm.name for arm in ARMS), ("#000000", "#0072b2", "#d55e00"), strict=True))
_WINDOW_STEPS = 15


def draw_curves(runs: Sequence[Run], file: Path) -> None:
    """Draws a thin smoothed line for each run and a thick one for each arm's mean."""
    # Not pyplot: it has global state and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    steps = {run: read_steps(run) for run in runs}
    for axes, (name, label) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
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
    """Running mean: each value becomes the mean of itself and up to 14 values before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - _WINDOW_STEPS, 0)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _draw_panel(axes: Any, curves: dict[Run, Floats]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4")
    steps = np.arange(1, 1 + max(map(len, curves.values())))
    for arm in ARMS:
        arm_curves = [curve for run, curve in curves.items() if run.arm is arm]
        colour = _COLOURS[arm.name]
        for curve in arm_curves:
            axes.plot(steps, curve, color=colour, lw=0.7, alpha=0.45)
        if arm_curves:
            axes.plot(steps, np.mean(arm_curves, axis=0), color=colour, lw=2, label=arm.title)
