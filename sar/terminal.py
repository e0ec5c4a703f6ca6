"""Text for a terminal: without control characters, cut to a width, aligned."""

from __future__ import annotations

import unicodedata

_CUT = "..."


def make_printable(text: str) -> str:
    """Escapes every character that a terminal could act on instead of showing it.

    `\\x1b` stands for an escape character and `\\x0a` for a line end. Not `\\n`, which in LaTeX may
    begin a command. Text that a model wrote can otherwise recolour, overwrite or reverse the line.
    """
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def join_lines(text: str) -> str:
    """Replaces line ends and other white space by single spaces, for an excerpt in one line."""
    return " ".join(text.split())


def measure(text: str) -> int:
    """The number of columns that a printable text takes; Chinese characters take two."""
    return sum(map(_measure_char, text))


def cut(text: str, width: int) -> str:
    """Cuts off the end of a printable text that is wider than `width` columns."""
    if measure(text) <= width:
        return text
    return _take(text, width - len(_CUT)) + _CUT


def cut_middle(text: str, width: int) -> str:
    """Like `cut`, but keeps start and end: the answer in a worked solution is at its end."""
    if measure(text) <= width:
        return text
    end = _take(text[::-1], (width - len(_CUT)) // 2)[::-1]
    return _take(text, width - len(_CUT) - measure(end)) + _CUT + end


def pad(text: str, width: int) -> str:
    """Fills a printable text with spaces up to `width` columns."""
    return text + " " * (width - measure(text))


def _take(text: str, width: int) -> str:
    """Returns as much of a text's start as fits in `width` columns."""
    taken = 0
    for index, char in enumerate(text):
        taken += _measure_char(char)
        if taken > width:
            return text[:index]
    return text


def _measure_char(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _escape(char: str) -> str:
    code = ord(char)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
