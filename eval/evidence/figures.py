"""The figures: right against wrong and length, and what each variant is paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.evidence.effects import GROUPS
from eval.evidence.scores import Score
from eval.evidence.variants import HONEST, VARIANTS
from eval.figures import COLOURS, STYLE, make_figure

_COLOUR = dict(zip(GROUPS, (COLOURS[1], COLOURS[2]), strict=True))
_MARKER = dict(zip(GROUPS, "os", strict=True))
_NUM_BINS = 5
_LENGTH_TICKS = [10 * 2**power for power in range(12)]


def draw_figures(summary: Mapping[str, Any], scores: Sequence[Score], folder: Path) -> list[Path]:
    """Writes `unchanged.png` and `variants.png`; returns their paths."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figures = {
            "unchanged": _draw_unchanged([s for s in scores if s.variant == HONEST]),
            "variants": _draw_variants(summary),
        }
        for name, figure in figures.items():
            # Without the date and the version of matplotlib, the same scores give the same file.
            figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
    return [folder / f"{name}.png" for name in figures]


def _draw_unchanged(scores: Sequence[Score]) -> Any:
    figure, (left, right) = make_figure(9.0, 3.8, 1, 2, width_ratios=(1, 1.3))
    sars = [score.sar for score in scores]
    bins = np.linspace(min(sars), max(sars), 21)
    for group in GROUPS:
        members = [s for s in scores if s.correctness == (group == "right")]
        sar_P = np.array([score.sar for score in members])
        tokens_P = np.array([score.num_tokens for score in members])
        label = f"{group} ({len(members)})"
        left.hist(
            sar_P, bins, histtype="step", color=_COLOUR[group], lw=1.6, label=label,
            weights=np.full(len(sar_P), 100 / len(sar_P)),
        )  # fmt: skip
        left.axvline(sar_P.mean(), color=_COLOUR[group], ls="--", lw=1)
        right.plot(tokens_P, sar_P, _MARKER[group], color=_COLOUR[group], ms=2.5, alpha=0.45)
        # Means of equally large groups by length.
        parts = np.array_split(np.argsort(tokens_P, kind="stable"), _NUM_BINS)
        means = [(tokens_P[part].mean(), sar_P[part].mean()) for part in parts if len(part)]
        right.plot(*zip(*means, strict=True), _MARKER[group] + "-", color=_COLOUR[group], ms=6)
    left.set_xlabel("SAR; dashed: mean")
    left.set_ylabel("responses (%)")
    right.set_xlabel("response length (tokens); large: means of fifths")
    _scale_lengths(right)
    right.set_ylabel("SAR")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=2, loc="outside upper center")
    return figure


def _scale_lengths(axes: Any) -> None:
    """A logarithmic x axis with plain numbers."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_LENGTH_TICKS))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_variants(summary: Mapping[str, Any]) -> Any:
    """Mean SAR and mean reward of each variant with their intervals, a row each."""
    names = [name for name in VARIANTS if any(name in summary["variants"][g] for g in GROUPS)]
    figure, panels = make_figure(9.0, 0.9 + 0.38 * len(names), 1, 2, sharey=True)
    titles = {"sar": "SAR", "reward": f"reward: correctness + {summary['sar_weight']} × SAR"}
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        for index, group in enumerate(GROUPS):
            found = summary["variants"][group]
            rows = [row for row, name in enumerate(names) if name in found]
            cells = [found[names[row]][measure] for row in rows]
            values = np.array([cell["value"] for cell in cells])
            ends = np.array([[cell["low"], cell["high"]] for cell in cells], float)
            errors = np.abs(ends.T - values)
            axes.errorbar(
                values, np.array(rows) + 0.24 * (index - 0.5), xerr=errors, fmt=_MARKER[group],
                color=_COLOUR[group], ms=5, elinewidth=1.4, capsize=2.5,
                label=f"of {group} responses",
            )  # fmt: skip
            if len(values):
                axes.axvline(values[0], color=_COLOUR[group], lw=0.9, ls=":")
        axes.axvline(0, color="#555555", lw=0.8)
        axes.set_xlabel(title)
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(names)), [VARIANTS[name] for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, ncols=2, loc="outside upper center", title_fontsize=9,
        title="mean and 95 % interval; dotted: the unchanged response",
    )  # fmt: skip
    return figure
