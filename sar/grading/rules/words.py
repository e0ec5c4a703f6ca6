"""Tells words from mathematics in a normalised answer, and compares two answers as text."""

from __future__ import annotations

import re

from sar.grading.rules.normalize import normalize_answer, normalize_formula
from sar.grading.rules.quantities import read_quantity
from sar.grading.rules.units import read_unit

_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
# Words of three or more letters that are mathematics.
_MATHEMATICAL = frozenset(
    "and sin cos tan cot sec csc log exp sqrt arcsin arccos arctan sinh cosh tanh max min gcd lcm "  # noqa: SIM905
    "mod det inf pmatrix bmatrix vmatrix matrix begin end infty".split()
)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{\w+\*?\}")
# Three or four letters next to a digit, a brace or an operator are a product: `\frac{abc}{5}`.
_PRODUCT = re.compile(r"(?<=[\d{}+*^_|])[a-zA-Z]{3,4}(?![a-zA-Z])|[a-zA-Z]{3,4}(?=[{}+*^_|])")
# `$n!$`: the exclamation mark before a closing math delimiter is a factorial.
_FACTORIAL = re.compile(r"!\s*(?:\$|\\[)\]])")


def has_words(text: str) -> bool:
    """Whether a text contains a word that is not mathematics, such as `apples` but not `sin`."""
    text = _ENVIRONMENT.sub(" ", text)
    return any(
        word[0].casefold() not in _MATHEMATICAL and not _is_product(text, word.start())
        for word in _WORD.finditer(text)
    )


def normalize_sentence(text: str) -> str:
    """Normalises a sentence. A final `!` ends it, but is a factorial in a formula: `$n!$`."""
    return (normalize_formula if _FACTORIAL.search(text[-6:]) else normalize_answer)(text)


def _is_product(text: str, start: int) -> bool:
    letters = _PRODUCT.match(text, start)
    return letters is not None and read_unit(letters[0]) is None


def is_textual(text: str) -> bool:
    """Whether an answer is words (`ellipse`, `June 20`) and not mathematics or a quantity."""
    return has_words(text) and not re.search(r"[\\^_=<>|/+]", text) and not read_quantity(text)


def is_same_spelling(a: str, b: str) -> bool:
    """Whether two texts differ only in white space: `x+1` and `x + 1`, but not `1 2` and `12`."""
    return _remove_spaces(a) == _remove_spaces(b)


def is_same_text(a: str, b: str) -> bool:
    """Whether two texts differ only in white space and redundant braces: `x^{2}` and `x^2`."""
    return _remove_braces(_remove_spaces(a)) == _remove_braces(_remove_spaces(b))


def _remove_spaces(text: str) -> str:
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _remove_braces(text: str) -> str:
    return re.sub(r"\{(\w+)\}", r"\1", text)
