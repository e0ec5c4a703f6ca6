"""Decides whether two mathematical answers are equal.

Plain numbers must be equal exactly (`quantities`), lists and intervals part by part (`structures`),
expressions in value (`expressions`). Times of day, ratios and numbers with a base have rules here.
Runs only in a grader process.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import gcd

from sar.grading.rules.expressions import (
    is_computable,
    is_roughly_equal,
    is_same_equation,
    is_same_expression,
)
from sar.grading.rules.normalize import normalize_words
from sar.grading.rules.quantities import is_same_quantity, read_quantity
from sar.grading.rules.structures import Structure, read_structure, split_sides
from sar.grading.rules.words import is_same_spelling, is_same_text, is_textual
from sar.grading.verdict import Comparison

# `1011_2`, `110_{6}` (second-m2-base-259), `21 (base 5)`.
_BASED = re.compile(r"([0-9A-Fa-f]+)\s*(?:_\s*\{?\s*(\d+|[a-z]+)\s*\}?|\(?(?:in )?base (\d+)\)?)")
# `4:30`, `4:30 p.m.` (math-clock_times-002); `4 p.m.`
_CLOCK = re.compile(
    r"(\d{1,2})\s*:\s*(\d{2})(?!\d)\s*(?:([ap])\.?\s*m\b\.?)?[a-z ]{0,12}", re.IGNORECASE
)
_CLOCK_HOUR = re.compile(r"(\d{1,2})()\s*([ap])\.?\s*m\b\.?[a-z ]{0,12}", re.IGNORECASE)
_RATIO = re.compile(r"\d{1,9}(?:\s*:\s*\d{1,9})+")
# What an equation may define: `x` (math-x_equals-003), `x_1`, `AB`, `|AB|`, `\angle B`, `f(x)`,
# `area of the square`.
_NAME = re.compile(
    r"(?:\\angle\s*)?(?:[A-Z]{1,3}|[a-zA-Z]|\\[a-z]+|[A-Z]?[a-z]{3,}(?: [a-z]+)*)(?:_\{?\w+\}?)?"
    r"'{0,2}(?:\s*\([\w, \\]{1,12}\))?|\|[A-Z]{2}\|"
)
_VARIABLE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])")
# An operation that is still to be done: `10-5` (math-negatives-012), `12 \div 2`, `\log 8`.
_ARITHMETIC = re.compile(
    r"(?<=[\d)}])\s*(?:[+*-]|\\times|\\cdot|\\div)\s*(?=[\d({\\])|\\(?:lfloor|lceil|log|ln)(?![a-z])"
)
_APPROXIMATELY = re.compile(r"\\approx|\\simeq|\\sim")


def compare_as_text(label: str, answer: str) -> Comparison:
    """Compares a label that cannot be parsed with an answer, as texts."""
    is_equal = is_same_text(label, answer)
    return Comparison(is_equal, "the texts are the same" if is_equal else "the texts differ")


def compare_answers(label: str, answer: str) -> Comparison:
    """Compares a normalised answer with a normalised label."""
    is_equal = is_equivalent(label, answer)
    return Comparison(is_equal, "equal" if is_equal else "not equal")


def is_equivalent(label: str, answer: str) -> bool:
    """Whether a normalised answer equals a normalised label."""
    if is_same_spelling(label, answer):
        return True
    label_quantity, answer_quantity = read_quantity(label), read_quantity(answer)
    if label_quantity and answer_quantity:
        return is_same_quantity(label_quantity, answer_quantity)
    label_clock, answer_clock = _read_clock(label), _read_clock(answer)
    if label_clock and answer_clock:
        return _is_same_clock(label_clock, answer_clock)
    if label_quantity and answer_clock:
        return label_quantity.value == answer_clock[0] and answer_clock[1] == 0
    label_based, answer_based = _BASED.fullmatch(label), _BASED.fullmatch(answer)
    if answer_based and not label_based and _get_base(answer_based) != "10":
        return False  # `21_5` is not 21
    if label_based and answer_based:
        is_same_base = _get_base(label_based) == _get_base(answer_based)
        return is_same_base and label_based[1].upper() == answer_based[1].upper()
    if is_textual(label):
        return normalize_words(label) == normalize_words(answer)
    return _is_same_structure(read_structure(label), read_structure(answer))


@lru_cache(maxsize=512)
def is_readable(label: str) -> bool:
    """Whether a normalised label is words, or mathematics that we can parse.

    It also evaluates the label, so that the pool can detect a label that takes forever.
    """
    if read_quantity(label) or _read_clock(label) or is_textual(label):
        return True
    if _BASED.fullmatch(label) or _RATIO.fullmatch(label):
        return True
    return all(
        read_quantity(part) or is_computable(split_sides(part)[-1])
        for part in read_structure(label).leaves
    )


def _is_same_structure(label: Structure, answer: Structure) -> bool:
    brackets = (label.brackets, answer.brackets)
    if (label.is_unordered and answer.is_unordered) or brackets == ("U", "U"):
        return all(any(_is_same_part(a, b) for b in answer.parts) for a in label.parts) and all(
            any(_is_same_part(a, b) for a in label.parts) for b in answer.parts
        )
    # Label or answer may leave out the brackets of (2, 3). The answer [2, 3] also equals the label
    # `2, 3`, but the answer `2, 3` does not equal the interval [2, 3].
    is_same_kind = brackets[0] == brackets[1] or brackets in (("()", ""), ("", "()"), ("", "[]"))
    if not is_same_kind or len(label.parts) != len(answer.parts):
        return False
    return all(map(_is_same_part, label.parts, answer.parts))


def _is_same_part(label: str | Structure, answer: str | Structure) -> bool:
    if isinstance(label, str) and isinstance(answer, str):
        if label[:1] not in ("(", "[") and answer[:1] not in ("(", "["):
            return _is_same_value(label, answer)
        label, answer = read_structure(label), read_structure(answer)
        if len(label.parts) == len(answer.parts) == 1:
            return _is_same_value(label.leaves[0], answer.leaves[0])
    if isinstance(label, Structure) and isinstance(answer, Structure):
        return _is_same_structure(label, answer)
    return False


def _is_same_value(label: str, answer: str) -> bool:
    """Compares two parts that may start with `x =`, be equations, or be followed by a rounding."""
    label_sides, answer_sides = split_sides(label), split_sides(answer)
    is_named = len(label_sides) == 2 and _NAME.fullmatch(label_sides[0])
    if len(label_sides) == 2 and not is_named and len(answer_sides) == 1:
        return False  # `25` is not the equation `x^2+y^2=25`
    if len(label_sides) == len(answer_sides) == 2:
        is_same_left = is_same_spelling(label_sides[0], answer_sides[0])
        if not is_same_left and re.search("[a-zA-Z]", answer_sides[0]):
            # For the label `x = 5`, `2x + 1 = 11` is not yet solved. But `2x-y+3=0` equals `y=2x+3`
            # (math-lines_equations-002).
            is_solution = is_named and not _VARIABLE.search(label_sides[1])
            return not is_solution and is_same_equation(label_sides, answer_sides)
    # In `p = 22/7 \approx 3.14`, either form may equal the label. A chain of guesses may not.
    forms = [form.strip() for form in _APPROXIMATELY.split(answer_sides[-1]) if form.strip()]
    if len(forms) > 2 or (len(forms) == 2 and not is_roughly_equal(*forms)):
        return False
    return any(_is_same_form(label_sides[-1], form) for form in forms)


def _is_same_form(label: str, answer: str) -> bool:
    if is_same_spelling(label, answer):
        return True
    label_quantity, answer_quantity = read_quantity(label), read_quantity(answer)
    if label_quantity and answer_quantity:
        return is_same_quantity(label_quantity, answer_quantity)
    if _RATIO.fullmatch(label) and _RATIO.fullmatch(answer):
        return _reduce_ratio(label) == _reduce_ratio(answer)
    if label_quantity and _ARITHMETIC.search(answer):
        return False  # `10-5` is not worked out
    decimals = answer_quantity.num_decimals if answer_quantity else None
    return is_same_expression(label, answer, decimals)


def _reduce_ratio(text: str) -> list[int]:
    terms = [int(term) for term in text.split(":")]
    divisor = gcd(*terms) or 1
    return [term // divisor for term in terms]


def _get_base(based: re.Match[str]) -> str:
    return str(based[2] or based[3])


def _read_clock(text: str) -> tuple[int, int, str] | None:
    """Returns hour, minute, and "a", "p" or "" (am, pm, neither) of a time of day."""
    match = _CLOCK.fullmatch(text) or _CLOCK_HOUR.fullmatch(text)
    return (int(match[1]), int(match[2] or 0), (match[3] or "").lower()) if match else None


def _is_same_clock(label: tuple[int, int, str], answer: tuple[int, int, str]) -> bool:
    if label[2] and answer[2]:
        return label == answer
    if label[:2] == answer[:2]:
        return True  # one of them has no a.m. or p.m. (math-clock_times-007)
    on_24_hours = [  # 4:30 p.m. is 16:30 (math-clock_times-006)
        (hour % 12 + (12 if half == "p" else 0) if half else hour, minute)
        for hour, minute, half in (label, answer)
    ]
    return on_24_hours[0] == on_24_hours[1]
