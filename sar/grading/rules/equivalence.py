"""Whether two mathematical answers are the same answer.

Plain numbers are compared exactly (`quantities`), clock times, ratios and based numbers by their
own rules, lists and intervals part by part (`structures`), expressions by value (`expressions`).
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
from sar.grading.rules.words import is_same_spelling, is_textual

_BASED = re.compile(r"([0-9A-Fa-f]+)\s*(?:_\s*\{?\s*(\d+|[a-z]+)\s*\}?|\(?(?:in )?base (\d+)\)?)")
_CLOCK = re.compile(
    r"(\d{1,2})\s*:\s*(\d{2})(?!\d)\s*(?:([ap])\.?\s*m\b\.?)?[a-z ]{0,12}", re.IGNORECASE
)
_CLOCK_HOUR = re.compile(r"(\d{1,2})()\s*([ap])\.?\s*m\b\.?[a-z ]{0,12}", re.IGNORECASE)
_RATIO = re.compile(r"\d{1,9}(?:\s*:\s*\d{1,9})+")
# What an equation can define: x, x_1, AB, |AB|, \\angle B, f(x), area of the square.
_NAME = re.compile(
    r"(?:\\angle\s*)?(?:[A-Z]{1,3}|[a-zA-Z]|\\[a-z]+|[A-Z]?[a-z]{3,}(?: [a-z]+)*)(?:_\{?\w+\}?)?"
    r"'{0,2}(?:\s*\([\w, \\]{1,12}\))?|\|[A-Z]{2}\|"
)
_VARIABLE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])")
_ARITHMETIC = re.compile(
    r"(?<=[\d)}])\s*(?:[+*-]|\\times|\\cdot|\\div)\s*(?=[\d({\\])|\\(?:lfloor|lceil|log|ln)(?![a-z])"
)
_APPROXIMATELY = re.compile(r"\\approx|\\simeq|\\sim")


def is_equivalent(label: str, answer: str) -> bool:
    """Whether a normalised answer says what the normalised label says."""
    if is_same_spelling(label, answer):
        return True
    label_quantity, answer_quantity = read_quantity(label), read_quantity(answer)
    if label_quantity and answer_quantity:
        return is_same_quantity(label_quantity, answer_quantity)
    label_clock, answer_clock = _clock(label), _clock(answer)
    if label_clock and answer_clock:
        return _same_clock(label_clock, answer_clock)
    if label_quantity and answer_clock:
        return label_quantity.value == answer_clock[0] and answer_clock[1] == 0
    label_based, answer_based = _BASED.fullmatch(label), _BASED.fullmatch(answer)
    if answer_based and not label_based and _base(answer_based) != "10":
        return False  # 21 in base 5 is not 21
    if label_based and answer_based:
        digits = label_based[1].upper() == answer_based[1].upper()
        return digits and _base(label_based) == _base(answer_based)
    if is_textual(label):
        return normalize_words(label) == normalize_words(answer)
    return _same_structure(read_structure(label), read_structure(answer))


@lru_cache(maxsize=512)
def is_readable(label: str) -> bool:
    """Whether a normalised label is mathematics we can read, and not only text to compare.

    It is evaluated too: a label that takes forever is to be found out without any response.
    """
    if read_quantity(label) or _clock(label) or is_textual(label):
        return True
    if _BASED.fullmatch(label) or _RATIO.fullmatch(label):
        return True
    return all(
        read_quantity(part) or is_computable(split_sides(part)[-1])
        for part in read_structure(label).leaves
    )


def _same_structure(label: Structure, answer: Structure) -> bool:
    kinds = (label.brackets, answer.brackets)
    unordered = (label.is_unordered and answer.is_unordered) or kinds == ("U", "U")
    if unordered:
        return all(any(_same_part(a, b) for b in answer.parts) for a in label.parts) and all(
            any(_same_part(a, b) for a in label.parts) for b in answer.parts
        )
    # `2, 3` may stand for the tuple (2, 3) or for [2, 3], but not for [2, 3) or {2, 3}.
    ordered = kinds[0] == kinds[1] or kinds in (("()", ""), ("", "()"), ("", "[]"))
    if ordered and len(label.parts) == len(answer.parts):
        return all(map(_same_part, label.parts, answer.parts))
    return False


def _same_part(label: str | Structure, answer: str | Structure) -> bool:
    if isinstance(label, str) and isinstance(answer, str):
        if label[:1] not in ("(", "[") and answer[:1] not in ("(", "["):
            return _same_value(label, answer)
        label, answer = read_structure(label), read_structure(answer)
        if len(label.parts) == len(answer.parts) == 1:
            return _same_value(label.leaves[0], answer.leaves[0])
    if isinstance(label, Structure) and isinstance(answer, Structure):
        return _same_structure(label, answer)
    return False


def _same_value(label: str, answer: str) -> bool:
    """Two parts that may carry `x =`, or be equations, or be given exactly and rounded."""
    label_sides, answer_sides = split_sides(label), split_sides(answer)
    is_named = len(label_sides) == 2 and _NAME.fullmatch(label_sides[0])
    if len(label_sides) == 2 and not is_named and len(answer_sides) == 1:
        return False  # the right side of an equation is not the equation
    if len(label_sides) == len(answer_sides) == 2:
        same_left = is_same_spelling(label_sides[0], answer_sides[0])
        if not same_left and re.search("[a-zA-Z]", answer_sides[0]):
            # `x = 5` asks for a solution: an equation to be solved is none.
            solved = is_named and not _VARIABLE.search(label_sides[1])
            return not solved and is_same_equation(label_sides, answer_sides)
    # Of `p = 22/7 \approx 3.14` either form is the value.
    forms = [form.strip() for form in _APPROXIMATELY.split(answer_sides[-1]) if form.strip()]
    if len(forms) > 2 or (len(forms) == 2 and not is_roughly_equal(*forms)):
        return False
    return any(_same_form(label_sides[-1], form) for form in forms)


def _same_form(label: str, answer: str) -> bool:
    if is_same_spelling(label, answer):
        return True
    label_quantity, answer_quantity = read_quantity(label), read_quantity(answer)
    if label_quantity and answer_quantity:
        return is_same_quantity(label_quantity, answer_quantity)
    if _RATIO.fullmatch(label) and _RATIO.fullmatch(answer):
        return _reduced_ratio(label) == _reduced_ratio(answer)
    if label_quantity and _ARITHMETIC.search(answer):
        return False  # an exercise copied, not worked out
    decimals = answer_quantity.num_decimals if answer_quantity else None
    return is_same_expression(label, answer, decimals)


def _reduced_ratio(text: str) -> list[int]:
    terms = [int(term) for term in text.split(":")]
    divisor = gcd(*terms) or 1
    return [term // divisor for term in terms]


def _base(based: re.Match[str]) -> str:
    return str(based[2] or based[3])


def _clock(text: str) -> tuple[int, int, str] | None:
    """Hour, minute, and "a", "p" or nothing, of a text that is a time of day."""
    match = _CLOCK.fullmatch(text) or _CLOCK_HOUR.fullmatch(text)
    return (int(match[1]), int(match[2] or 0), (match[3] or "").lower()) if match else None


def _same_clock(label: tuple[int, int, str], answer: tuple[int, int, str]) -> bool:
    if label[2] and answer[2]:
        return label == answer
    if label[:2] == answer[:2]:
        return True  # one of them leaves a.m. or p.m. out
    on_24_hours = [
        (hour % 12 + (12 if half == "p" else 0) if half else hour, minute)
        for hour, minute, half in (label, answer)
    ]
    return on_24_hours[0] == on_24_hours[1]
