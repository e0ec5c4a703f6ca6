"""An exception in one line: some libraries say a page, or begin with an empty line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of what it says; its class where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def one_line(error: BaseException) -> str:
    """Its class and the first line of what it says."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"
