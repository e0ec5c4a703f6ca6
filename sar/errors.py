"""One-line messages of exceptions: some libraries write a page, or begin with an empty line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of the message; the exception's class if the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def one_line(error: BaseException) -> str:
    """The exception's class and the first line of its message."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"
