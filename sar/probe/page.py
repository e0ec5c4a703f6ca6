"""Writes the battery's tables into a page, between two markers.

The first marker holds the command that writes the tables below it, so a page may hold the tables of
several models:

    <!-- Written by `python -m sar probe --update docs/probe.md`; do not edit. -->
    ...
    <!-- End of what is written. -->
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from sar.files import write_atomically

_END = "<!-- End of what is written. -->\n"


class PageError(ValueError):
    """The page cannot be updated. The message is one line."""


def make_marker(argv: Sequence[str]) -> str:
    """The line that stands above what this command writes."""
    return f"<!-- Written by `python -m sar probe {shlex.join(argv)}`; do not edit. -->\n"


def read_page(path: Path, argv: Sequence[str]) -> str:
    """The page, which has the markers of this command.

    Raises:
        PageError: it cannot be read, or a marker is missing.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PageError(f"--update {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PageError(f"--update {path}: not a text in UTF-8") from error
    _, start, rest = page.partition(make_marker(argv))
    if not start or _END not in rest:
        raise PageError(
            f"--update {path}: needs two lines, {make_marker(argv).strip()} and {_END.strip()}"
        )
    return page


def update_page(path: Path, argv: Sequence[str], tables: str) -> None:
    """Writes the tables between the markers of this command.

    Raises:
        PageError: the page cannot be read or written, or a marker is missing.
    """
    page = read_page(path, argv)
    before, start, rest = page.partition(make_marker(argv))
    _, end, after = rest.partition(_END)
    try:
        write_atomically(path, f"{before}{start}\n{tables}\n{end}{after}")
    except OSError as error:
        raise PageError(f"--update {path}: {error.strerror}") from error
