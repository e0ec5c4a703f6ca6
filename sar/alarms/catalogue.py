"""The table of alarms in docs/alarms.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sar.alarms.definitions import ALARMS, Alarm
from sar.alarms.report import describe_threshold, format_number

_START = "<!-- Written by `python -m sar audit --update docs/alarms.md`; do not edit. -->\n"
_END = "<!-- End of the alarms. -->\n"


class PageError(ValueError):
    """The page cannot be updated. The message is one line."""


def render_table(alarms: Sequence[Alarm] = ALARMS) -> str:
    """A Markdown table of alarms."""
    header = "| alarm | what it means | over | fires at | ends at | why there |\n"
    return header + "| --- " * 6 + "|\n" + "".join(map(_render_row, alarms))


def render_page(page: str) -> str:
    """The page with today's table between its markers.

    Raises:
        PageError: a marker is missing.
    """
    before, start, rest = page.partition(_START)
    _, end, after = rest.partition(_END)
    if not (start and end):
        raise PageError(f"needs two lines, {_START.strip()} and {_END.strip()}")
    return f"{before}{start}\n{render_table()}\n{end}{after}"


def update_page(path: Path) -> None:
    """Writes today's table into a page.

    Raises:
        PageError: the page cannot be read or written, or a marker is missing.
    """
    try:
        page = path.read_text(encoding="utf-8")
        path.write_text(render_page(page), encoding="utf-8")
    except OSError as error:
        raise PageError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or from `render_page`
        raise PageError(f"{path}: {error}") from error


def _render_row(alarm: Alarm) -> str:
    cells = (
        f"`{alarm.name}`",
        alarm.definition,
        alarm.window,
        describe_threshold(alarm),
        format_number(alarm.clear),
        alarm.reason,
    )
    row = " | ".join(cell.replace("|", r"\|") for cell in cells)
    return f"| {row} |\n"
