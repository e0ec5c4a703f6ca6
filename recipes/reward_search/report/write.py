"""Writes the files of a report, and the winner."""

from __future__ import annotations

from pathlib import Path

from eval.records import write_json
from recipes.reward_search.report.content import collect, to_json
from recipes.reward_search.report.figure import draw_search
from recipes.reward_search.report.html import render_html
from recipes.reward_search.report.wording import describe_outcome
from recipes.reward_search.rewards import write_winner
from recipes.reward_search.state import Search
from sar.files import write_atomically


def write_report(search: Search) -> Path:
    """Writes report.html, results.json, search.png and the winner's folder.

    Returns:
        report.html.
    """
    content = collect(search)
    folder = search.folder
    if content.winner:
        write_winner(
            folder / "winner", folder / "rewards", content.winner.weights, content.winner.title
        )
    picture = folder / "search.png"
    if content.ranked:
        draw_search(content, picture)
    write_json(folder / "results.json", to_json(content))
    report = folder / "report.html"
    write_atomically(report, render_html(content, picture if content.ranked else None))
    return report


def describe_end(search: Search) -> str:
    """What the command prints at the end."""
    return "\n".join(describe_outcome(collect(search)))
