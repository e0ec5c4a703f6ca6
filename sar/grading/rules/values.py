"""Decides whether two parsed expressions have the same value.

Rational numbers are compared exactly. Other expressions are evaluated at a few points, because
simplifying is slow and has made `1-1/e` equal `1+1/e` (Math-Verify issue 14). Runs only in a
grader process, because evaluation can take forever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sar.grading.rules.expressions import Expression
from sar.grading.rules.unfinished import is_too_large

# Values of the variables at which expressions are compared; not zeros or poles of common answers.
_POINTS = ("0.7310585", "1.3862943", "-0.5772156", "2.2360679")
# For sums up to n, factorials and the like.
_WHOLE_POINTS = ("3", "7", "4", "6")
_NUM_DIGITS = 30
# Largest difference of two equal values, relative to the label's.
_TOLERANCE = 1e-15
# A decimal with at least six significant digits may be rounded.
_ROUNDED = 1e5


def is_same_tree(label: Any, answer: Any, answer_decimals: int | None = None) -> bool | None:
    """Whether two expressions have the same value; None if they have none to compare.

    Args:
        label, answer: sympy expressions.
        answer_decimals: digits after the decimal point if the answer is a plain decimal, else None.
    """
    if label == answer:
        return True
    if is_too_large(label) or is_too_large(answer):
        return False  # too many digits to compute, and written differently
    symbols = label.free_symbols | answer.free_symbols
    if label.free_symbols != answer.free_symbols and not _cancels(label, answer):
        return False
    if not symbols:
        return _is_same_number(label, answer, answer_decimals)
    was_compared = False
    for at in choose_points(symbols, (label, answer)):
        values = evaluate_at(label, at), evaluate_at(answer, at)
        if values[0] is None or values[1] is None:
            if (values[0] is None) != (values[1] is None):
                return False
            continue
        if abs(values[0] - values[1]) > _TOLERANCE * abs(values[0]):
            return False
        was_compared = True
    return True if was_compared else None


def is_rounding_of(exact: Expression, rounded: Expression, decimals: int | None) -> bool:
    """Whether a number is another one, rounded: to some decimals, or else to within 1%."""
    values = evaluate_at(exact.tree, {}), evaluate_at(rounded.tree, {})
    if values[0] is None or values[1] is None:
        return False
    margin = 0.01 * abs(values[0]) if decimals is None else 0.5000001 * 10.0**-decimals
    return abs(values[0] - values[1]) <= margin


def choose_points(symbols: Iterable[Any], trees: Sequence[Any]) -> list[dict[Any, str]]:
    """Returns assignments of values to the symbols; without symbols, one empty assignment."""
    ordered = sorted(symbols, key=str)
    if not ordered:
        return [{}]
    points = _WHOLE_POINTS if any(map(_counts, trees)) else _POINTS
    return [
        {symbol: points[(i + shift) % len(points)] for i, symbol in enumerate(ordered)}
        for shift in range(len(points))
    ]


def evaluate_at(tree: Any, at: dict[Any, str]) -> complex | None:
    """Returns an expression's value at a point, or None if it has none there."""
    from sympy import Rational

    try:
        if _counts(tree):
            tree = tree.subs({symbol: Rational(text) for symbol, text in at.items()}).doit()
        value = complex(tree.evalf(_NUM_DIGITS, subs=at))
    except (TypeError, ValueError, OverflowError, AttributeError, ZeroDivisionError):
        return None  # a set, an undefined function, a pole
    return value if abs(value) < float("inf") else None


def _is_same_number(label: Any, answer: Any, answer_decimals: int | None) -> bool | None:
    """Compares two expressions without variables."""
    numbers = label.doit(), answer.doit()
    if any(number.has(_not_a_number()) for number in numbers):
        return None
    if all(number.is_Rational for number in numbers):
        difference, is_exact = numbers[0] - numbers[1], True
    else:
        difference, is_exact = (numbers[0] - numbers[1]).doit(), False
    if difference.is_Rational and is_exact:
        return bool(difference == 0)
    value, offset = evaluate_at(numbers[0], {}), evaluate_at(difference, {})
    if value is None or offset is None:
        return None
    tolerance = _TOLERANCE * abs(value)
    if answer_decimals and abs(value) * 10.0**answer_decimals >= _ROUNDED:
        tolerance = 10.0**-answer_decimals
    return abs(offset) <= tolerance


def _not_a_number() -> Any:
    from sympy import nan

    return nan


def _counts(tree: Any) -> bool:
    """Whether an expression is only defined for whole numbers."""
    from sympy import Product, Sum, binomial, factorial

    return bool(tree.has(Sum, Product, factorial, binomial))


def _cancels(label: Any, answer: Any) -> bool:
    """Whether two expressions have the same variables once those are gone that cancel: `18x/x`."""
    return bool(label.doit().free_symbols == answer.doit().free_symbols)
