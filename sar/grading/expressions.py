"""Single mathematical expressions: read by math-verify, compared by their value.

Values are compared at points and not by simplification, which is slow and has equated `1-1/e` with
`1+1/e` (Math-Verify issue 14). Runs only in a grader process: evaluating can take forever.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sar.grading.words import is_textual, squeezed

# math-verify warns, at each call, that its SIGALRM timeouts are off; the pool kills from outside.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_MAX_EXPRESSION_CHARS = 400
# Where expressions with variables are compared; away from the zeros and poles of common answers.
_POINTS = ("0.7310585", "1.3862943", "-0.5772156", "2.2360679")
_TOLERANCE = 1e-9
_DIGITS = 30
# A decimal with at least six significant digits is taken as rounded.
_ROUNDED = 1e5


@lru_cache(maxsize=512)  # the rollouts of one prompt share a label
def read_expression(text: str) -> Any | None:
    """math-verify's reading of one normalised expression, a sympy object; None if it finds none."""
    from math_verify import parse

    if not text or len(text) > _MAX_EXPRESSION_CHARS or is_textual(text):
        return None
    # Inside a box math-verify reads 96% of labels, bare only two thirds.
    parsed = parse(rf"\boxed{{{text}}}", parsing_timeout=None)
    return parsed[0] if parsed and not isinstance(parsed[0], str) else None


def is_computable(text: str) -> bool:
    """Whether an expression can be read; evaluates it, so that one which takes forever does."""
    expression = read_expression(text)
    if expression is None:
        return False
    _value_at(expression, {})
    return True


def same_expression(label: str, answer: str, answer_decimals: int | None) -> bool:
    """Whether two normalised expressions have the same value, or else the same text.

    Args:
        answer_decimals: digits after the decimal point where the answer is a plain decimal.
    """
    readings = read_expression(label), read_expression(answer)
    if readings[0] is None or readings[1] is None:
        return squeezed(label).casefold() == squeezed(answer).casefold()
    from math_verify import verify
    from sympy import Expr

    if isinstance(readings[0], Expr) and isinstance(readings[1], Expr):
        close = _close_at_points(*readings, answer_decimals)
        if close is not None:
            return close
    return bool(verify([readings[0]], [readings[1]], timeout_seconds=None))


def same_equation(label_sides: Sequence[str], answer_sides: Sequence[str]) -> bool:
    """Whether two equations are one: the differences of their sides have a constant ratio."""
    sides: list[Any] = [read_expression(side) for side in (*label_sides, *answer_sides)]
    if any(side is None for side in sides):
        return squeezed("=".join(label_sides)) == squeezed("=".join(answer_sides))
    try:
        label, answer = (left - right for left, right in (sides[:2], sides[2:]))
    except TypeError:  # sets, intervals, relations
        return False
    if not hasattr(label, "free_symbols") or label.free_symbols != answer.free_symbols:
        return False
    ratios = []
    for at in _points(label.free_symbols):
        a, b = _value_at(label, at), _value_at(answer, at)
        if a is None or b is None or abs(a) < _TOLERANCE or abs(b) < _TOLERANCE:
            return False
        ratios.append(a / b)
    return all(abs(ratio - ratios[0]) <= _TOLERANCE * abs(ratios[0]) for ratio in ratios)


def _close_at_points(label: Any, answer: Any, answer_decimals: int | None) -> bool | None:
    """Whether two expressions agree wherever both have a value; None if nowhere."""
    symbols = label.free_symbols | answer.free_symbols
    compared = False
    for at in _points(symbols):
        a, b = _value_at(label, at), _value_at(answer, at)
        if a is None or b is None:
            continue
        # Relative for all but values near zero that arise from rounding, such as sin(pi).
        tolerance = _TOLERANCE * (max(1.0, abs(a)) if abs(a) > 1e-6 else abs(a))
        if not symbols and answer_decimals and abs(b) * 10.0**answer_decimals >= _ROUNDED:
            tolerance = max(tolerance, 10.0**-answer_decimals)
        if abs(a - b) > tolerance:
            return False
        compared = True
    return True if compared else None


def _points(symbols: set[Any]) -> list[dict[Any, str]]:
    """Assignments of values to the symbols; one empty assignment where there are none."""
    if not symbols:
        return [{}]
    ordered = sorted(symbols, key=str)
    return [
        {symbol: _POINTS[(i + shift) % len(_POINTS)] for i, symbol in enumerate(ordered)}
        for shift in range(len(_POINTS))
    ]


def _value_at(expression: Any, at: dict[Any, str]) -> complex | None:
    try:
        value = complex(expression.evalf(_DIGITS, subs=at))
    except (TypeError, ValueError, OverflowError, AttributeError, ZeroDivisionError):
        return None  # no number: a set, an undefined function, a pole
    return value if abs(value) < float("inf") else None
