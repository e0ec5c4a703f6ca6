"""Error messages of one short line, whatever they quote: a client's text, or a library's page."""

from __future__ import annotations

from sar.terminal import make_printable

MAX_ECHO_CHARS = 200
"""Of a text that somebody else wrote, in an error or a log line."""
MAX_MESSAGE_CHARS = 500
"""Of a whole message of ours, which may quote two such texts."""


def shorten(text: str, max_chars: int = MAX_ECHO_CHARS) -> str:
    """The start of a text in one line of printable characters, and how much of it is left out.

    Args:
        max_chars: length of the part that is kept. Characters that a terminal could act on are
            escaped; an escaped character counts as its escape.
    """
    start = ""
    num_shown = 0
    for char in text[:max_chars]:
        shown = make_printable(char)
        if len(start) + len(shown) > max_chars:
            break
        start += shown
        num_shown += 1
    num_left_out = len(text) - num_shown
    return f"{start}... ({num_left_out:,} more characters)" if num_left_out else start


def quote(value: object, max_chars: int = MAX_ECHO_CHARS) -> str:
    """The start of a value's `repr`, such as a text in quotation marks; see `shorten`."""
    try:
        return shorten(repr(value), max_chars)
    except (ValueError, RecursionError):  # a number of over 4,300 digits; lists in lists in lists
        return f"{type(value).__name__} that is too large to show"


def first_line(error: BaseException, max_chars: int = MAX_ECHO_CHARS) -> str:
    """The first line of the message, shortened; the exception's class if the message is empty."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  an exception class of somebody else's may not make a text
        message = ""
    return shorten(message.strip().partition("\n")[0], max_chars) or type(error).__name__


def one_line(error: BaseException, max_chars: int = MAX_ECHO_CHARS) -> str:
    """The exception's class and the first line of its message, shortened."""
    name, line = type(error).__name__, first_line(error, max_chars)
    return name if line == name else f"{name}: {line}"
