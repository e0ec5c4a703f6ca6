"""report.md: tables, findings in words, and links to the figures."""

from __future__ import annotations

from collections.abc import Sequence

from eval.compare.comparison import Comparison
from eval.compare.report.explanations import explain_statistics
from eval.compare.report.tables import Table, make_metrics_tables, make_pair_table, make_runs_table
from eval.compare.report.wording import describe_findings, summarize_pair


def render_markdown(comparison: Comparison, correction: str, figures: Sequence[str]) -> str:
    """Returns the report as Markdown.

    Args:
        figures: paths of the pictures, relative to the report.
    """
    baseline = comparison.baseline.name
    parts = [f"# Comparison with {_escape(baseline)}", _format_table(make_runs_table(comparison))]
    if comparison.notes:
        parts.append("**Notes:**\n\n" + _format_list(comparison.notes))
    for pair in comparison.pairs:
        parts += [
            f"## {_escape(pair.other.name)} against {_escape(baseline)}",
            _format_list(summarize_pair(pair, correction)),
            _format_table(make_pair_table(pair, correction)),
            _format_list(describe_findings(pair, correction)),
        ]
    parts += [f"![{name}]({name})" for name in figures]
    parts.append("## Each run on its own")
    for table in make_metrics_tables(comparison):
        parts += [f"### {_escape(table.caption)}", _format_table(table)]
    parts += ["## How to read this", _format_list(explain_statistics(comparison, correction))]
    return "\n\n".join(parts) + "\n"


def _format_table(table: Table) -> str:
    rule = ["---"] + ["---:"] * (len(table.columns) - 1)
    lines = [table.columns, rule, *table.rows]
    return "\n".join(f"| {' | '.join(_escape(cell) for cell in line)} |" for line in lines)


def _format_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escape(line)}" for line in lines)


def _escape(text: str) -> str:
    """Escapes markup: names of runs and models come from the user."""
    for character in "\\`*_<>|[]":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
