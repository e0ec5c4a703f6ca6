"""The picture of docs/scaling.md: throughput by the number of scorers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from performance.report import Measurement

_DPI = 100


def plot(measurements: Sequence[Measurement], path: Path) -> None:
    """Writes a PNG of 900 x 500 pixels."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    points = [m for m in measurements if "scorers" in m.details]
    figure, axis = plt.subplots(figsize=(9, 5), dpi=_DPI, layout="constrained")
    ones = _choose(points, 1)
    numbers = [m.details["scorers"] for m in ones]
    axis.plot(numbers, [n * ones[0].value / numbers[0] for n in numbers], ":", color="0.6")
    axis.annotate(
        "linear",
        (numbers[-1], numbers[-1] * ones[0].value / numbers[0]),
        ha="right",
        va="bottom",
        color="0.4",
    )
    _draw(axis, ones, "o-", "requests of 1 rollout")
    sizes = sorted({m.details["request_rollouts"] for m in points} - {1})
    for size in sizes:
        _draw(axis, _choose(points, size), "s", f"requests of {size} rollouts")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks(numbers, [str(n) for n in numbers])
    ticks = [25 * 2**n for n in range(9)]
    axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xlabel("scorers")
    axis.set_ylabel("rollouts per second")
    axis.set_title("One front; scorers that wait as a GPU would work")
    axis.legend(frameon=False)
    axis.grid(color="0.9")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _choose(points: Sequence[Measurement], request_rollouts: int) -> list[Measurement]:
    return [m for m in points if m.details["request_rollouts"] == request_rollouts]


def _draw(axis: Any, points: Sequence[Measurement], style: str, label: str) -> None:
    values = [m.value for m in points]
    low = [m.value - min(m.samples) for m in points]
    high = [max(m.samples) - m.value for m in points]
    numbers = [m.details["scorers"] for m in points]
    axis.errorbar(numbers, values, yerr=[low, high], fmt=style, capsize=3, label=label)
