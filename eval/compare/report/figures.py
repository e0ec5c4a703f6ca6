"""The figures of a report, as PNG and SVG: accuracy against length, and the paired differences.

Every interval that exists is drawn. Each run has its own colour and marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.compare.comparison import Comparison
from eval.compare.report.wording import AVERAGE, is_significant
from eval.figures import COLOURS, STYLE, make_figure
from eval.statistics.metrics import Estimate, Resampled
from eval.statistics.paired import Difference
from eval.statistics.samples import Floats

MARKERS = "osD^vPX"


def draw_figures(comparison: Comparison, folder: Path, correction: str) -> list[Path]:
    """Writes `pareto`, `differences` and, if there are several benchmarks, `pareto_by_benchmark`.

    Returns:
        The paths of the SVGs.
    """
    from matplotlib import rc_context

    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        figures = {"pareto": _plot_pareto(comparison)}
        if len(comparison.benchmarks) > 1:
            figures["pareto_by_benchmark"] = _plot_pareto_by_benchmark(comparison)
        figures["differences"] = _plot_differences(comparison, correction)
        paths = []
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=160)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            paths.append(folder / f"{name}.svg")
    return paths


def _plot_pareto(comparison: Comparison) -> Any:
    """Accuracy against length, averaged over benchmarks. Up and to the left is better."""
    figure, axes = make_figure(6.4, 4.8)
    points = {run.name: comparison.averages[run.name] for run in comparison.runs}
    _draw_points(axes, points)
    has_frontier = _draw_frontier(axes, list(points.values()))
    title = f"Average of {len(comparison.benchmarks)} benchmarks"
    axes.set_title(title if len(comparison.benchmarks) > 1 else comparison.benchmarks[0])
    axes.set_xlabel("mean response length (tokens)")
    axes.set_ylabel("accuracy (%)")
    axes.annotate(
        "better ↖", (0.02, 0.97), xycoords="axes fraction", va="top", color="#777777", fontsize=9
    )
    handles, labels = axes.get_legend_handles_labels()
    title = "mean and 95 % interval" + ("; dotted: Pareto frontier" if has_frontier else "")
    figure.legend(
        handles, labels, frameon=False, ncols=4, loc="outside lower center",
        title=title, title_fontsize=9,
    )  # fmt: skip
    return figure


def _draw_frontier(axes: Any, runs: Sequence[dict[str, Resampled]]) -> bool:
    """Draws the Pareto frontier as steps, ignoring intervals. No run is both above and left of it.

    Returns:
        False if nothing was drawn, because one run is best in both accuracy and length.
    """
    points = [(m["tokens"].value, 100 * m["avg_at_n"].value) for m in runs]
    points = [point for point in points if not np.isnan(point).any()]
    frontier: list[tuple[float, float]] = []
    for tokens, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not frontier or accuracy > frontier[-1][1]:
            frontier.append((tokens, accuracy))
    if len(frontier) < 2:
        return False
    x, y = zip(*frontier, strict=True)
    axes.step(x, y, where="post", color="#999999", linestyle=":", zorder=1)
    return True


def _plot_pareto_by_benchmark(comparison: Comparison) -> Any:
    names = comparison.benchmarks
    num_columns = min(len(names), 4)
    num_rows = -(-len(names) // num_columns)
    figure, grid = make_figure(
        3.0 * num_columns + 0.4, 2.8 * num_rows + 0.7, num_rows, num_columns, squeeze=False
    )
    for axes, name in zip(grid.flat, names, strict=False):
        points = {run.name: comparison.metrics[run.name][name] for run in comparison.runs}
        _draw_points(axes, points)
        axes.set_title(name)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("mean response length (tokens)")
    figure.supylabel("accuracy (%)")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, ncols=min(len(labels), 4), loc="outside upper center"
    )
    return figure


def _draw_points(axes: Any, points: dict[str, dict[str, Resampled]]) -> None:
    for index, (run, metrics) in enumerate(points.items()):
        x, y = metrics["tokens"].estimate(), metrics["avg_at_n"].estimate()
        if x.value is None or y.value is None:
            continue  # the tables show that it is undefined
        axes.errorbar(
            x.value,
            100 * y.value,
            xerr=_make_error_bar(x),
            yerr=_make_error_bar(y, 100),
            markersize=7,
            label=_make_legend_label(run),
            **_choose_style(index),
        )
    axes.margins(0.15)


def _plot_differences(comparison: Comparison, correction: str) -> Any:
    """Differences from the baseline with their intervals. Markers are filled if significant."""
    names = list(comparison.benchmarks)
    if len(names) > 1:
        names.append(AVERAGE)
    num_pairs = len(comparison.pairs)
    height = 1.6 + 0.34 * len(names) * max(1, num_pairs * 0.7)
    figure, (left, right) = make_figure(9.0, height, 1, 2, sharey=True)
    for index, pair in enumerate(comparison.pairs):
        shift = 0.7 * ((index + 0.5) / num_pairs - 0.5)
        rows = np.arange(len(names), dtype=np.float64) + shift
        paired = [pair.average if name == AVERAGE else pair.benchmarks[name] for name in names]
        accuracy, tokens = [p.accuracy for p in paired], [p.tokens for p in paired]
        _draw_gains(left, rows, accuracy, 100, correction, index + 1)
        _draw_gains(right, rows, tokens, 1, correction, index + 1, pair.other.name)
    left.set_xlabel("accuracy (points)")
    right.set_xlabel("mean response length (tokens)")
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    for axes in (left, right):
        axes.axvline(0, color="#555555", linewidth=1)
        axes.grid(visible=False, axis="y")
    baseline = comparison.baseline.name
    figure.suptitle(
        f"Difference from {baseline}, 95 % interval; filled: significant "
        f"({correction.capitalize()}, 5 %)",
        fontsize=10,
    )
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="outside lower center")
    return figure


def _draw_gains(
    axes: Any,
    rows: Floats,
    differences: Sequence[Difference],
    scale: float,
    correction: str,
    run: int,
    label: str | None = None,
) -> None:
    style = _choose_style(run)
    for row, difference in zip(rows, differences, strict=True):
        gain = difference.gain.estimate()
        if gain.value is None:
            continue
        axes.errorbar(
            scale * gain.value,
            row,
            xerr=_make_error_bar(gain, scale),
            markerfacecolor=style["color"] if is_significant(difference, correction) else "white",
            **style,
        )
    if label is not None:
        axes.plot([], [], style["fmt"], color=style["color"], label=_make_legend_label(label))


def _choose_style(run: int) -> dict[str, Any]:
    """Marker, colour and error bars of a run, by its index."""
    fmt, color = MARKERS[run % len(MARKERS)], COLOURS[run % len(COLOURS)]
    return {"fmt": fmt, "color": color, "elinewidth": 1.4, "capsize": 3}


def _make_legend_label(run: str) -> str:
    """Adds a space before an underscore: matplotlib hides labels that begin with one."""
    return f" {run}" if run.startswith("_") else run


def _make_error_bar(estimate: Estimate, scale: float = 1.0) -> list[list[float]] | None:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return [[scale * (estimate.value - estimate.low)], [scale * (estimate.high - estimate.value)]]
