"""The statistics as Markdown tables, for docs/evidence.md and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.evidence.effects import GROUPS
from eval.evidence.variants import HONEST, VARIANTS

_UNCHANGED = {
    "sar_right": "mean SAR of right responses",
    "sar_wrong": "mean SAR of wrong responses",
    "difference": "difference, right minus wrong",
    "difference_at_equal_length": "the same at equal length (log tokens)",
    "cohens_d": "the difference in standard deviations (Cohen's d)",
    "right_higher": "pairs in which the right response has the higher SAR",
    "spearman_with_length_right": "SAR with length, right responses (Spearman)",
    "spearman_with_length_wrong": "SAR with length, wrong responses (Spearman)",
}
_SHARES = {"right_higher", "honest_sar_higher", "honest_reward_higher", "correctness"}
_VARIANT_COLUMNS = {
    "sar": "SAR",
    "difference": "against unchanged",
    "cohens_d_paired": "d",
    "honest_sar_higher": "unchanged has the higher SAR",
    "correctness": "graded right",
    "reward": "reward",
    "honest_reward_higher": "unchanged has the higher reward",
}


def make_tables(summary: Mapping[str, Any]) -> dict[str, str]:
    """Markdown tables by name: `unchanged`, `right` and `wrong`. Brackets hold 95 % intervals."""
    unchanged = summary["unchanged"]
    rows = [[title, _format(name, unchanged[name])] for name, title in _UNCHANGED.items()]
    counts = f"{unchanged['num_right']} right, {unchanged['num_wrong']} wrong responses"
    tables = {"unchanged": _format_table([counts, "value [95 % interval]"], rows)}
    for group in GROUPS:
        found = summary["variants"][group]
        heads = ["response", "n", *_VARIANT_COLUMNS.values()]
        tables[group] = _format_table(
            heads, [_make_row(name, found[name]) for name in VARIANTS if name in found]
        )
    return tables


def _make_row(name: str, measures: Mapping[str, Any]) -> list[str]:
    compared = {"difference", "cohens_d_paired", "honest_sar_higher", "honest_reward_higher"}
    cells = [
        "" if name == HONEST and column in compared else _format(column, measures[column])
        for column in _VARIANT_COLUMNS
    ]
    return [VARIANTS[name], str(measures["num_rollouts"]), *cells]


def _format(name: str, estimate: Mapping[str, float | None]) -> str:
    # Differences are small: with two decimals, it would not show whether an interval has a 0.
    scale, spec = (100, ".0f") if name in _SHARES else (1, ".3f" if "difference" in name else ".2f")
    unit = " %" if name in _SHARES else ""

    def write(value: float) -> str:
        text = format(scale * value, spec)
        return (text[1:] if float(text) == 0 and text[0] == "-" else text).replace("-", "−")

    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "undefined"
    if low is None or high is None:
        return write(value) + unit
    return f"{write(value)}{unit} [{write(low)}, {write(high)}]"


def _format_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
