"""Tables of a search as Markdown: for docs/search.md, and for the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from recipes.reward_search.report.content import collect
from recipes.reward_search.report.figure import ALT_TEXT
from recipes.reward_search.report.tables import Table, make_tables
from recipes.reward_search.report.wording import describe_outcome
from recipes.reward_search.state import Search
from sar import pages

_COMMAND = "python -m recipes.reward_search report DIR --update docs/search.md"
_SHOWN = ("rounds", "finalists", "pairs", "seeds")


def check_page(page: Path) -> None:
    """
    Raises:
        PageError: the page cannot be read, or lacks its markers.
    """
    pages.check_page(page, _COMMAND)


def update_page(page: Path, search: Search) -> None:
    """Writes what a search found between the page's markers, and its picture beside the page.

    Raises:
        PageError: the page cannot be written, or lacks its markers.
    """
    content = collect(search)
    tables = make_tables(content)
    parts = ["\n".join(f"- {line}" for line in describe_outcome(content))]
    picture = page.with_suffix(".png")
    if content.ranked:
        parts.append(f"![{ALT_TEXT}]({picture.name})")
    parts += [format_table(tables[name]) for name in _SHOWN if name in tables]
    pages.update_page(page, _COMMAND, "\n\n".join(parts))
    if content.ranked:
        shutil.copyfile(search.folder / "search.png", picture)


def format_table(table: Table) -> str:
    """The caption, then the table."""
    lines = [f"{table.caption}:", "", _join(table.head), _join(["---"] * len(table.head))]
    return "\n".join([*lines, *(_join(row) for row in table.rows)])


def format_searches(searches: Sequence[Search]) -> str:
    """How several searches went: one line for each round of each."""
    lines = []
    for search in searches:
        content = collect(search)
        table = make_tables(content).get("rounds")
        settings = search.settings
        minutes = search.used_s / 60
        lines += [
            f"{search.folder.name}: generator {settings.generator}, feedback {settings.feedback}, "
            f"seed {settings.seed}, {minutes:.1f} minutes, {len(content.ranked)} screened",
            format_table(table) if table else "no candidate yet",
            *(f"- {line}" for line in describe_outcome(content)),
            "",
        ]
    return "\n".join(lines)


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
