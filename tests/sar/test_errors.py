"""One-line messages of exceptions."""

from __future__ import annotations

import pytest

from sar.errors import first_line, one_line


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
    ],
)
def test_an_exception_in_one_line(error: Exception, first: str, one: str) -> None:
    assert (first_line(error), one_line(error)) == (first, one)
