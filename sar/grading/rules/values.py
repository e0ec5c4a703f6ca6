"""Decides whether two parsed expressions have the same value.

Rational numbers are compared exactly. Other expressions are evaluated at a few points, because
simplifying is slow and has made `1-1/e` equal `1+1/e` (Math-Verify issue 14). Runs only in a
grader process, because evaluation can take forever.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from sar.grading.rules.expressions import Expression
from sar.grading.rules.unfinished import is_too_large

# Values of the variables at which expressions are compared; not zeros or poles of common answers,
# with one below -1, as functions may change there. A variable gets another one at each point.
_POINTS = ("0.7310585", "1.3862943", "-0.5772156", "2.2360679", "-2.6457513")
# For sums up to n, factorials and the like.
_WHOLE_POINTS = ("3", "8", "5", "13")
_NUM_DIGITS = 50
# Largest difference of two equal values, relative to the label's.
_TOLERANCE = 1e-40
# Largest difference from a label that is 0 at a point, where nothing is relative.
_NOISE = 1e-70
# A decimal with at least six significant digits may be rounded.
_ROUNDED = 1e5


def is_same_tree(label: Any, answer: Any, answer_decimals: int | None = None) -> bool | None:
    """Whether two expressions have the same value; None if they have none to compare.

    Args:
        label, answer: sympy expressions.
        answer_decimals: digits after the decimal point if the answer is a plain decimal, else None.
    """
    label, answer = _name_unknown_functions(label), _name_unknown_functions(answer)
    if label == answer:
        return True
    if is_too_large(label) or is_too_large(answer):
        return False  # too many digits to compute, and written differently
    if label.free_symbols != answer.free_symbols and not _cancels(label, answer):
        return False
    if not label.free_symbols | answer.free_symbols:
        return _is_same_number(label, answer, answer_decimals)
    was_compared = False
    for at in choose_points(label.free_symbols | answer.free_symbols, label):
        values = evaluate_at(label, at), evaluate_at(answer, at)
        if values[0] is None or values[1] is None:
            if (values[0] is None) != (values[1] is None):
                return False
            continue
        if not _is_close(evaluate_at(label - answer, at), values[0]):
            return False
        was_compared = True
    return True if was_compared else None


def is_rounding_of(exact: Expression, rounded: Expression, decimals: int) -> bool:
    """Whether a number is another one, rounded half up to some decimals."""
    values = evaluate_at(exact.tree, {}), evaluate_at(rounded.tree, {})
    if values[0] is None or values[1] is None or not (values[0] - values[1]).is_real:
        return False
    unit = 10.0**-decimals
    return bool(-0.5 * unit <= values[0] - values[1] < 0.4999999 * unit)


def choose_points(symbols: Iterable[Any], label: Any) -> list[dict[Any, Any]]:
    """Returns assignments of sympy numbers to the symbols; without symbols, one empty assignment.

    They are whole numbers if the label is only defined for these.
    """
    ordered = sorted(symbols, key=str)
    if not ordered:
        return [{}]
    points = _WHOLE_POINTS if _counts(label) else _POINTS
    return [
        {symbol: _choose_value(points, i, shift) for i, symbol in enumerate(ordered)}
        for shift in range(len(points))
    ]


def evaluate_at(tree: Any, at: dict[Any, Any]) -> Any | None:
    """Returns an expression's value at a point as a sympy number, or None if it has none there."""
    try:
        if _counts(tree):
            tree = tree.subs(at).doit()
        value = tree.evalf(_NUM_DIGITS, subs=at)
        is_number = bool(value.is_number and value.is_finite)
    except (TypeError, ValueError, OverflowError, AttributeError, ZeroDivisionError):
        return None  # a set, an undefined function, a pole
    return value if is_number else None


@cache
def _choose_value(points: tuple[str, ...], index: int, shift: int) -> Any:
    """Returns one of the points; for the sixth variable and later ones, a multiple of it."""
    from sympy import Rational

    return Rational(points[(index + shift) % len(points)]) * (1 + 2 * (index // len(points)))


def _is_close(difference: Any | None, value: Any, tolerance: float | None = None) -> bool:
    if difference is None:
        return False
    size = abs(difference)
    if tolerance is not None:
        return bool(size <= tolerance)
    return bool(size <= _TOLERANCE * abs(value)) or (value == 0 and bool(size < _NOISE))


def _is_same_number(label: Any, answer: Any, answer_decimals: int | None) -> bool | None:
    """Compares two expressions without variables."""
    from sympy import nan

    numbers = label.doit(), answer.doit()
    if any(number.has(nan) for number in numbers):
        return None
    difference = numbers[0] - numbers[1]
    if all(number.is_Rational for number in numbers):
        return bool(difference == 0)
    value, offset = evaluate_at(numbers[0], {}), evaluate_at(difference, {})
    if value is None or offset is None:
        return None
    if answer_decimals and abs(value) * 10**answer_decimals >= _ROUNDED:
        return is_rounding(offset if value > 0 else -offset, 10.0**-answer_decimals)
    return _is_close(offset, value)


def is_rounding(offset: Any, unit: Any) -> bool:
    """Whether a decimal was rounded or cut off.

    Args:
        offset: how much larger the exact number's absolute value is than the decimal's.
        unit: one in the decimal's last place.
    """
    return bool(-unit <= 2 * offset) and bool(offset < unit)


def _name_unknown_functions(tree: Any) -> Any:
    """Replaces `I(0)` and `f(x)`, which have no value, by variables."""
    from sympy import Symbol
    from sympy.core.function import AppliedUndef

    unknown = tree.atoms(AppliedUndef) if hasattr(tree, "atoms") else ()
    return tree.xreplace({f: Symbol(str(f), real=True) for f in unknown}) if unknown else tree


def _counts(tree: Any) -> bool:
    """Whether an expression is mostly about whole numbers."""
    from sympy import Mod, Product, Sum, binomial, ceiling, factorial, floor

    return bool(tree.has(Sum, Product, factorial, binomial, floor, ceiling, Mod))


def _cancels(label: Any, answer: Any) -> bool:
    """Whether two expressions have the same variables once those are gone that cancel: `18x/x`."""
    return bool(label.doit().free_symbols == answer.doit().free_symbols)
