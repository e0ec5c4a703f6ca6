"""The learning curves as a picture: length, correctness and SAR of what the policy samples."""

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
# Of Okabe and Ito: colour-blind readers can tell them apart.
_COLOURS = dict(zip((arm.name for arm in ARMS), ("#000000", "#0072b2", "#d55e00"), strict=True))
_WINDOW = 15


def draw(runs: Sequence[Run], file: Path) -> None:
    """A thin line for each run, a thick one for the mean of an arm's, smoothed."""
    # Without pyplot there is no global state and no display to ask for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    steps = {run: read_steps(run) for run in runs}
    for axes, (name, label) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        _draw_panel(axes, {run: smoothed([s[name] for s in of]) for run, of in steps.items()})
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    title = f"thick: mean of the seeds; running means over {_WINDOW} steps"
    figure.legend(
        handles, labels, frameon=False, ncols=len(ARMS), loc="outside lower center",
        title=title, title_fontsize=9,
    )  # fmt: skip
    figure.savefig(file, dpi=140)


def smoothed(values: Sequence[float]) -> Floats:
    """Running means over at most `_WINDOW` values that end at each."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - _WINDOW, 0)
    means: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _draw_panel(axes: Any, curves: dict[Run, Floats]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4")
    for arm in ARMS:
        of_arm = [curve for run, curve in curves.items() if run.arm is arm]
        if not of_arm:
            continue
        for curve in of_arm:
            axes.plot(
                np.arange(1, len(curve) + 1), curve, color=_COLOURS[arm.name], lw=0.7, alpha=0.45
            )
        mean = np.mean(of_arm, axis=0)
        axes.plot(
            np.arange(1, len(mean) + 1), mean, color=_COLOURS[arm.name], lw=2, label=arm.title
        )
