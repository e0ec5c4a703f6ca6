"""What all figures of eval share. The colours are those of Okabe and Ito, which colour-blind
readers can tell apart."""

from __future__ import annotations

from typing import Any

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "text.parse_math": False,  # a $ in a run's name stays a $
    "svg.hashsalt": "eval",  # so that the same runs give the same file
}


def make_figure(width: float, height: float, *grid: int, **options: Any) -> tuple[Any, Any]:
    """Makes a matplotlib figure, sizes in inches. Returns it with `Figure.subplots(*grid)`."""
    # Not pyplot, which has global state and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*grid, **options)
