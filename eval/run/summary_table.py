"""The table that a run prints at its end."""

from __future__ import annotations

from typing import Any


def format_summary(summary: dict[str, Any]) -> str:
    """One line per benchmark, and one for their average if there are several.

    Args:
        summary: what `eval.statistics.metrics.summarize` returns.
    """
    lines = [
        f"{'benchmark':<14}{'problems':>9}{'samples':>9}  {'accuracy':<24}{'tokens':>8}"
        f"{'truncated':>11}{'no answer':>11}{'errors':>8}"
    ]
    rows = list(summary["benchmarks"].items())
    if len(rows) > 1:
        rows.append(("average", summary["average"]))
    for name, row in rows:
        metrics = row["metrics"]
        accuracy, tokens = metrics["accuracy"], metrics["tokens"]["value"]
        low, high = accuracy["low"], accuracy["high"]
        interval = "" if low is None else f" [{low:.1%}, {high:.1%}]"
        lines.append(
            f"{name:<14}{row.get('num_problems', ''):>9}{row.get('num_samples', ''):>9}  "
            f"{_format_percent(accuracy['value']) + interval:<24}"
            f"{'-' if tokens is None else f'{tokens:.0f}':>8}"
            f"{_format_percent(metrics['truncation_rate']['value']):>11}"
            f"{_format_percent(metrics['no_answer_rate']['value']):>11}"
            f"{row.get('num_errors', ''):>8}"
        )
    return "\n".join(lines)


def _format_percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
