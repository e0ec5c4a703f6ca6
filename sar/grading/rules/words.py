"""Telling words from mathematics in a normalised answer."""

from __future__ import annotations

import re

from sar.grading.rules.quantities import read_quantity

_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
# Three letters or more, and yet no prose.
_MATHEMATICAL = frozenset(
    "and sin cos tan cot sec csc log exp sqrt arcsin arccos arctan sinh cosh tanh max min gcd lcm "  # noqa: SIM905
    "mod det inf pmatrix bmatrix vmatrix matrix begin end infty".split()
)


def has_words(text: str) -> bool:
    """Whether a text holds words that are not mathematical functions."""
    return any(word[0].casefold() not in _MATHEMATICAL for word in _WORD.finditer(text))


def is_textual(text: str) -> bool:
    """Whether an answer is words, such as a name or a date, and not mathematics."""
    return has_words(text) and not re.search(r"[\\^_=<>|/+]", text) and not read_quantity(text)


def squeezed(text: str) -> str:
    """A text without white space, except between digits: equal so, equal in any reading."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def bare(text: str) -> str:
    """A text for comparison as text: no white space, no braces that do nothing."""
    return re.sub(r"\{(\w+)\}", r"\1", squeezed(text))
