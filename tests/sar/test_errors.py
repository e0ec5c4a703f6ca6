"""One-line messages of exceptions, and of what they quote."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.errors import first_line, one_line, quote, shorten

MOST_CHARS = 200 + len("... (20,000,000 more characters)")


@pytest.mark.parametrize(
    ("error", "first", "one"),
    [
        (ValueError("no such file"), "no such file", "ValueError: no such file"),
        (OSError("first\nsecond\n"), "first", "OSError: first"),
        # As transformers says that a library is missing.
        (ImportError("\nX requires Y\n"), "X requires Y", "ImportError: X requires Y"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (RuntimeError(" \n "), "RuntimeError", "RuntimeError"),
        (KeyError("a"), "'a'", "KeyError: 'a'"),
        (ValueError("a\rb\x1b[2J\u2028"), r"a\x0db\x1b[2J", r"ValueError: a\x0db\x1b[2J"),
    ],
)
def test_an_exception_in_one_line(error: Exception, first: str, one: str) -> None:
    assert (first_line(error), one_line(error)) == (first, one)


def test_an_exception_without_a_message() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise KeyError("detail")

    assert one_line(Odd()) == "Odd"


def test_an_exception_that_quotes_a_long_text_is_cut() -> None:
    error = ValueError("cannot read " + "x" * 20_000_000)
    assert one_line(error).startswith("ValueError: cannot read xxx")
    assert one_line(error).endswith("x... (19,999,812 more characters)")
    assert len(one_line(error)) <= MOST_CHARS + len("ValueError: ")


@pytest.mark.parametrize(
    ("text", "max_chars", "wanted"),
    [
        ("", 5, ""),
        ("short", 5, "short"),
        ("longer", 5, "longe... (1 more characters)"),
        ("\n\n\n", 9, r"\x0a\x0a... (1 more characters)"),
        ("ab\ud83d", 20, r"ab\ud83d"),
        ("\u2029\x85", 20, r"\u2029\x85"),
        ("答案", 20, "答案"),
    ],
)
def test_a_text_is_shortened_and_escaped(text: str, max_chars: int, wanted: str) -> None:
    assert shorten(text, max_chars) == wanted


@given(st.text(st.characters()), st.integers(0, 50))
def test_any_text_becomes_a_short_line(text: str, max_chars: int) -> None:
    shown = shorten(text, max_chars)
    assert shown.isprintable()
    assert len(shown) <= max_chars + len(f"... ({len(text):,} more characters)")
    shown.encode()


def _nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "start"),
    [
        ("a\nb", r"'a\nb'"),
        ("x" * 10**6, "'xxx"),
        ({"k" * 10**6: 1}, "{'kkk"),
        (10**10_000, "int that is too large to show"),
        (_nest(10), "[[[["),
        (_nest(100_000), "list that is too large to show"),
        (["\ud800"], r"['\ud800']"),
    ],
    ids=["line break", "text", "key", "number", "nested", "nested deeply", "surrogate"],
)
def test_any_value_can_be_quoted(value: object, start: str) -> None:
    assert quote(value).startswith(start)
    assert quote(value).isprintable()
    assert len(quote(value)) <= MOST_CHARS
