"""Whether two mathematical answers are the same answer.

Plain numbers are compared exactly by `quantities`; lists, sets, tuples, intervals and equations are
taken apart here, so that brackets and order count; what is left, single expressions, is parsed by
math-verify and compared by value. Values are compared at points and not by simplification, which
is slow and has equated `1-1/e` with `1+1/e` (Math-Verify issue 14).

Runs only in a grader process: parsing and evaluating a hostile expression can take forever.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any

from sar.grading.normalize import normalize_words
from sar.grading.quantities import read_quantity, same_quantity

# math-verify warns, at each call, that its SIGALRM timeouts are off; the pool kills from outside.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_MAX_EXPRESSION_CHARS = 400
_MAX_PARTS = 64
# Where expressions with variables are compared; away from the zeros and poles of common answers.
_POINTS = ("0.7310585", "1.3862943", "-0.5772156", "2.2360679")
_TOLERANCE = 1e-9

_OPENING, _CLOSING = "([{", ")]}"
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
_FUNCTIONS = frozenset(
    [
        "and",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "sqrt",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "max",
        "min",
        "gcd",
        "lcm",
        "mod",
        "det",
        "inf",
        "pmatrix",
        "bmatrix",
        "vmatrix",
        "matrix",
        "begin",
        "end",
        "infty",
    ]
)
_SET = re.compile(r"\\\{(.*)\\\}")
_MEMBER = re.compile(r"\s*[a-zA-Z](?:_\{?\w+\}?)?\s*\\in(?![a-z])\s*")
_LIST_WORD = re.compile(r"\s*,?\s+(?:or|and)\s+(?=\S)|\s*;\s*|\s*\\(?:vee|lor)\s*")
_THOUSANDS = re.compile(r"(?<![\d,.(\[{])\d{1,3}(?:,\d{3})+(?![\d,])")
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])")
_BASED = re.compile(r"([0-9A-Fa-f]+)\s*(?:_\s*\{?\s*(\d+|[a-z]+)\s*\}?|\(?(?:in )?base (\d+)\)?)")
_RELATION = re.compile(r"\\(?:le|ge|ne)(?![a-z])|<=|>=|<|>")
_CLOCK = re.compile(r"(\d{1,2})\s*:\s*(\d{2})\s*(?:([ap])\.?\s*m\b\.?)?.{0,12}", re.IGNORECASE)
_CLOCK_HOUR = re.compile(r"(\d{1,2})\s*([ap])\.?\s*m\b\.?.{0,12}", re.IGNORECASE)
_RATIO = re.compile(r"\d{1,9}(?:\s*:\s*\d{1,9})+")


def equivalent(label: str, answer: str) -> bool:
    """Whether a normalised answer says what the normalised label says."""
    if _squeezed(label) == _squeezed(answer):
        return True
    label_quantity, answer_quantity = read_quantity(label), read_quantity(answer)
    if label_quantity and answer_quantity:
        return same_quantity(label_quantity, answer_quantity)
    if (label_clock := _clock(label)) and (answer_clock := _clock(answer)):
        return _same_clock(label_clock, answer_clock)
    if label_quantity and (answer_clock := _clock(answer)):
        return label_quantity.value == answer_clock[0] and answer_clock[1] == 0
    if (label_based := _BASED.fullmatch(label)) and (answer_based := _BASED.fullmatch(answer)):
        return label_based[1].upper() == answer_based[1].upper() and (
            (label_based[2] or label_based[3]) == (answer_based[2] or answer_based[3])
        )
    if is_textual(label):
        return normalize_words(label) == normalize_words(answer)
    return _same_structure(_structure(label), _structure(answer))


@lru_cache(maxsize=512)
def is_readable(label: str) -> bool:
    """Whether a normalised label is mathematics we can read, and not only text to compare.

    It is evaluated too: a label that takes forever is to be found out without any response.
    """
    if read_quantity(label) or _clock(label) or _BASED.fullmatch(label) or is_textual(label):
        return True
    for part in _structure(label).leaves():
        if not read_quantity(part):
            expression = _expression(_sides(part)[-1])
            if expression is None:
                return False
            _value_at(expression, {})
    return True


def is_textual(text: str) -> bool:
    """Whether an answer is words, such as a name or a date, and not mathematics."""
    return has_words(text) and not re.search(r"[\\^_=<>|/+]", text) and not read_quantity(text)


def has_words(text: str) -> bool:
    """Whether a normalised text holds words that are not mathematical functions."""
    return any(word[0].casefold() not in _FUNCTIONS for word in _WORD.finditer(text))


@dataclass(frozen=True)
class _Structure:
    """An answer taken apart. `brackets`: "" single or bare list, "()" "[)" ... , "{}", "U" union."""

    brackets: str
    parts: tuple[Any, ...]  # of str or _Structure

    def leaves(self) -> list[str]:
        found: list[str] = []
        for part in self.parts:
            found.extend(part.leaves() if isinstance(part, _Structure) else [part])
        return found


def _structure(text: str) -> _Structure:
    text = _MEMBER.sub("", text.strip(), count=1).strip()
    sides = _sides(text)
    if len(sides) == 2 and sides[1].startswith(("(", "[", r"\{")):
        text = sides[1]  # (a, b) = (6, 5)
    if interval := _from_inequality(text):
        return interval
    unions = _split(text, r"\cup")
    if len(unions) > 1:
        return _Structure("U", tuple(map(_structure, unions)))
    if (braced := _SET.fullmatch(text)) and _is_closed(braced[1]):
        return _Structure("{}", tuple(_list_parts(braced[1])))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _is_closed(text[1:-1]):
        inner = _split(text[1:-1], ",")
        if len(inner) > 1:
            return _Structure(text[0] + text[-1], tuple(p.strip() for p in inner))
    return _Structure("", tuple(_list_parts(text)))


def _list_parts(text: str) -> list[str]:
    """Elements of a list; `\\pm` stands for two of them."""
    if read_quantity(text):
        return [text]
    parts = []
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    for part in _split(_LIST_WORD.sub(" , ", text), ","):
        if _PLUS_MINUS.search(part):
            parts += [_PLUS_MINUS.sub("+", part).strip(), _PLUS_MINUS.sub("-", part).strip()]
        elif part.strip():
            parts.append(part.strip())
    return [part.lstrip("+ ") for part in parts[:_MAX_PARTS]]


def _same_structure(label: _Structure, answer: _Structure) -> bool:
    kinds = (label.brackets, answer.brackets)
    if len(label.parts) == len(answer.parts) == 1:
        return kinds in (("", ""), ("{}", "{}"), ("", "{}"), ("{}", "")) and _same_part(
            label.parts[0], answer.parts[0]
        )
    unordered = kinds in (("", ""), ("{}", "{}"), ("", "{}"), ("{}", ""), ("U", "U"))
    # A bare list stands for a tuple, but not for an interval that says whether its ends belong.
    ordered = kinds[0] == kinds[1] or kinds in (("()", ""), ("", "()"), ("", "[]"))
    if unordered:
        return all(any(_same_part(a, b) for b in answer.parts) for a in label.parts) and all(
            any(_same_part(a, b) for a in label.parts) for b in answer.parts
        )
    if ordered and len(label.parts) == len(answer.parts):
        return all(map(_same_part, label.parts, answer.parts))
    return False


def _same_part(label: Any, answer: Any) -> bool:
    if isinstance(label, _Structure) or isinstance(answer, _Structure):
        return (
            isinstance(label, _Structure)
            and isinstance(answer, _Structure)
            and _same_structure(label, answer)
        )
    if label[:1] in ("(", "[") or answer[:1] in ("(", "["):
        nested = _structure(label), _structure(answer)
        if len(nested[0].parts) > 1 or len(nested[1].parts) > 1:
            return _same_structure(*nested)
    return _same_equation(label, answer)


def _same_equation(label: str, answer: str) -> bool:
    """Two parts that may carry `x =` or be equations."""
    label_sides, answer_sides = _sides(label), _sides(answer)
    if len(label_sides) == len(answer_sides) == 2:
        same_left = _squeezed(label_sides[0]) == _squeezed(answer_sides[0])
        if not same_left and re.search("[a-zA-Z]", answer_sides[0]):
            return _same_zero_set(label_sides, answer_sides)
    # The exact and the rounded form of one value: 22/7 \approx 3.14.
    forms = [form.strip() for form in re.split(r"\\approx|\\simeq|\\sim", answer_sides[-1])]
    if len(answer_sides) > 1 and r"\approx" in answer:
        forms += [re.split(r"\\approx", side)[0].strip() for side in answer_sides[1:]]
    return any(_same_value(label_sides[-1], form) for form in forms if form)


def _sides(text: str) -> list[str]:
    """Sides of an equation, in order; chains keep their ends only."""
    sides = [side.strip() for side in re.split(r"(?<![<>!=\\])=(?!=)", text)]
    if len(sides) == 1:
        return sides
    return [sides[0], sides[-1]] if sides[-1] else [sides[0]]


def _same_value(label: str, answer: str) -> bool:
    if _squeezed(label) == _squeezed(answer):
        return True
    label_quantity, answer_quantity = read_quantity(label), read_quantity(answer)
    if label_quantity and answer_quantity:
        return same_quantity(label_quantity, answer_quantity)
    if _RATIO.fullmatch(label) and _RATIO.fullmatch(answer):
        return _reduced_ratio(label) == _reduced_ratio(answer)
    label_expression, answer_expression = _expression(label), _expression(answer)
    if label_expression is None or answer_expression is None:
        return _squeezed(label).casefold() == _squeezed(answer).casefold()
    return _same_expression(label_expression, answer_expression, _num_decimals(answer))


def _same_expression(label: Any, answer: Any, answer_decimals: int | None) -> bool:
    from math_verify import verify
    from sympy import Expr

    if isinstance(label, Expr) and isinstance(answer, Expr):
        close = _close_at_points(label, answer, answer_decimals)
        if close is not None:
            return close
    return bool(verify([label], [answer], timeout_seconds=None))


def _close_at_points(label: Any, answer: Any, answer_decimals: int | None) -> bool | None:
    """Whether two expressions agree in value; None if they have none."""
    symbols = sorted(label.free_symbols | answer.free_symbols, key=str)
    points = _POINTS if symbols else _POINTS[:1]
    num_compared = 0
    for shift in range(len(points)):
        at = {s: points[(i + shift) % len(points)] for i, s in enumerate(symbols)}
        a, b = _value_at(label, at), _value_at(answer, at)
        if a is None or b is None:
            continue
        tolerance = _TOLERANCE * max(1.0, abs(a)) if abs(a) > 1e-6 else abs(a) * _TOLERANCE
        if not symbols and answer_decimals is not None and answer_decimals >= 6:
            tolerance = max(tolerance, 10.0**-answer_decimals)
        if abs(a - b) > tolerance:
            return False
        num_compared += 1
    return True if num_compared else None


def _value_at(expression: Any, at: dict[Any, str]) -> complex | None:
    try:
        value = complex(expression.evalf(30, subs=at))
    except (TypeError, ValueError, OverflowError, AttributeError, ZeroDivisionError):
        return None
    return value if abs(value) < float("inf") else None


def _same_zero_set(label_sides: Sequence[str], answer_sides: Sequence[str]) -> bool:
    """Two equations are one when the differences of their sides have a constant ratio."""
    sides = [_expression(side) for side in (*label_sides, *answer_sides)]
    if any(side is None for side in sides):
        return _squeezed("=".join(label_sides)) == _squeezed("=".join(answer_sides))
    try:
        label, answer = sides[0] - sides[1], sides[2] - sides[3]
    except TypeError:
        return False
    if not hasattr(label, "free_symbols") or label.free_symbols != answer.free_symbols:
        return False
    ratios = []
    symbols = sorted(label.free_symbols, key=str)
    for shift in range(len(_POINTS)):
        at = {s: _POINTS[(i + shift) % len(_POINTS)] for i, s in enumerate(symbols)}
        a, b = _value_at(label, at), _value_at(answer, at)
        if a is None or b is None or abs(b) < _TOLERANCE or abs(a) < _TOLERANCE:
            return False
        ratios.append(a / b)
    return all(abs(r - ratios[0]) <= _TOLERANCE * abs(ratios[0]) for r in ratios)


@lru_cache(maxsize=512)  # the rollouts of one prompt share a label
def _expression(text: str) -> Any | None:
    """math-verify's reading of one expression; None if it finds none."""
    from math_verify import parse

    if not text or len(text) > _MAX_EXPRESSION_CHARS or is_textual(text):
        return None
    # Inside a box math-verify reads 96% of labels, bare only two thirds.
    parsed = parse(rf"\boxed{{{text}}}", parsing_timeout=None)
    return parsed[0] if parsed and not isinstance(parsed[0], str) else None


def _from_inequality(text: str) -> _Structure | None:
    """`1 < x \\le 2` as (1, 2]; `x \\ge 3` as [3, infinity); two joined by `or` as their union."""
    relations = _RELATION.findall(text)
    if not relations or r"\ne" in relations:
        return None
    pieces = re.split(r"\s+or\s+", text)
    if len(pieces) > 1:
        parts = [_from_inequality(piece) for piece in pieces]
        return _Structure("U", tuple(parts)) if all(parts) else None
    sides = [side.strip() for side in _RELATION.split(text)]
    is_variable = [re.fullmatch(r"\\?[a-zA-Z]+", side) is not None for side in sides]
    greater = [r in (">", ">=", r"\ge") for r in relations]
    closed = [r in ("<=", ">=", r"\le", r"\ge") for r in relations]
    if len(sides) == 2 and any(is_variable):
        if is_variable[0] and not is_variable[1]:
            bound, is_lower = sides[1], greater[0]
        else:
            bound, is_lower = sides[0], not greater[0]
        if is_lower:
            return _Structure("[)" if closed[0] else "()", (bound, r"\infty"))
        return _Structure("(]" if closed[0] else "()", (r"-\infty", bound))
    if len(sides) == 3 and is_variable[1] and greater[0] == greater[1]:
        if greater[0]:
            sides, closed = sides[::-1], closed[::-1]
        brackets = ("[" if closed[0] else "(") + ("]" if closed[1] else ")")
        return _Structure(brackets, (sides[0], sides[2]))
    return None


def _split(text: str, separator: str) -> list[str]:
    """Splits where no bracket is open."""
    if separator not in text:
        return [text]
    parts, depth, start, index = [], 0, 0, 0
    while index < len(text):
        if text[index] in _OPENING:
            depth += 1
        elif text[index] in _CLOSING:
            depth -= 1
        elif depth == 0 and text.startswith(separator, index):
            parts.append(text[start:index])
            start = index = index + len(separator)
            continue
        index += 1
    return [*parts, text[start:]]


def _is_closed(text: str) -> bool:
    """Whether brackets opened in a text are closed in it, and none else."""
    depth = 0
    for char in text:
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth < 0:
            return False
    return depth == 0


def _clock(text: str) -> tuple[int, int, str] | None:
    if match := _CLOCK.fullmatch(text):
        return int(match[1]), int(match[2]), (match[3] or "").lower()
    if match := _CLOCK_HOUR.fullmatch(text):
        return int(match[1]), 0, match[2].lower()
    return None


def _same_clock(label: tuple[int, int, str], answer: tuple[int, int, str]) -> bool:
    if label[2] and answer[2]:
        return label == answer
    on_24_hours = [
        (hour % 12 + (12 if half == "p" else 0) if half else hour, minute)
        for hour, minute, half in (label, answer)
    ]
    return label[:2] == answer[:2] or on_24_hours[0] == on_24_hours[1]


def _reduced_ratio(text: str) -> list[int]:
    terms = [int(term) for term in text.split(":")]
    divisor = gcd(*terms) or 1
    return [term // divisor for term in terms]


def _num_decimals(text: str) -> int | None:
    quantity = read_quantity(text)
    return quantity.num_decimals if quantity else None


def _squeezed(text: str) -> str:
    return re.sub(r"\s+|(?<=\\frac)\s", "", text)
