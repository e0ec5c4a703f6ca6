"""Writes what a program measured or lists into a documentation page, between two markers.

The first marker holds the command that writes the text below it, so a page may hold several:

    <!-- Written by `python -m sar terms --update docs/rewards.md`; do not edit. -->
    ...
    <!-- End of what is written. -->
"""

from __future__ import annotations

from pathlib import Path

from sar.files import write_atomically

_END = "<!-- End of what is written. -->\n"


class PageError(ValueError):
    """The page cannot be updated. The message is one line."""


def render_page(page: str, command: str, text: str) -> str:
    """The page with this text between the markers of the command.

    Raises:
        PageError: a marker is missing.
    """
    before, start, rest = page.partition(_make_start(command))
    _, end, after = rest.partition(_END)
    if not (start and end):
        raise PageError(f"needs two lines, {_make_start(command).strip()} and {_END.strip()}")
    return f"{before}{start}\n{text}\n{end}{after}"


def check_page(path: Path, command: str) -> None:
    """
    Raises:
        PageError: the page cannot be read, or a marker is missing.
    """
    _render(path, command, "")


def update_page(path: Path, command: str, text: str) -> None:
    """Writes the text between the markers of the command.

    Raises:
        PageError: the page cannot be read or written, or a marker is missing.
    """
    page = _render(path, command, text)
    try:
        write_atomically(path, page)
    except OSError as error:
        raise PageError(f"{path}: {error.strerror}") from error


def _render(path: Path, command: str, text: str) -> str:
    try:
        return render_page(path.read_text(encoding="utf-8"), command, text)
    except OSError as error:
        raise PageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PageError(f"{path}: not a text in UTF-8") from error
    except PageError as error:
        raise PageError(f"{path}: {error}") from error


def _make_start(command: str) -> str:
    return f"<!-- Written by `{command}`; do not edit. -->\n"
