"""Single mathematical expressions: read by math-verify, compared by their value.

Values are compared at points and not by simplification, which is slow and has equated `1-1/e` with
`1+1/e` (Math-Verify issue 14). Runs only in a grader process: evaluating can take forever.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from sar.grading.rules.units import strip_unit
from sar.grading.rules.words import is_same_text, is_textual

# math-verify warns, at each call, that its SIGALRM timeouts are off; the pool kills from outside.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_MAX_EXPRESSION_CHARS = 400
# Where expressions with variables are compared; away from the zeros and poles of common answers.
_POINTS = ("0.7310585", "1.3862943", "-0.5772156", "2.2360679")
_TOLERANCE = 1e-15
_DIGITS = 30
# What math-verify reads as the number or letter beside it, or evaluates as if it were an answer.
_MISREAD = re.compile(
    r"\\(?:mid|equiv|pmod|bmod|mod|gcd|lcm|neg|sim|sum|prod|int|lim|partial|max|min|det|ldots|cdots"
    r"|dots|begin\{cases\})(?![a-zA-Z])|\\frac\{d[\w^ ]*\}\{d|\.\.\.|['?:]|\^\{?T\b"
    r"|^\s*(?:\\le|\\ge|<|>)|\d\s*mod\b|\bgcd\b|\bmax\b|\bmin\b"
)
# What is left of zero after cancellation.
_NOISE = 1e-25
# A decimal with at least six significant digits is taken as rounded.
_ROUNDED = 1e5


@lru_cache(maxsize=512)  # the rollouts of one prompt share a label
def read_expression(text: str) -> Any | None:
    """math-verify's reading of one normalised expression, a sympy object; None if it finds none."""
    from math_verify import parse

    text = strip_unit(text)
    if not text or len(text) > _MAX_EXPRESSION_CHARS or is_textual(text) or _MISREAD.search(text):
        return None
    # math-verify can parse 96% of labels inside a box, and only two thirds without it.
    parsed = parse(rf"\boxed{{{text}}}", [_reading_rules()], parsing_timeout=None)
    return _exact(parsed[0]) if parsed and not isinstance(parsed[0], str) else None


def is_computable(text: str) -> bool:
    """Whether an expression can be read; evaluates it, so that one which takes forever does."""
    expression = read_expression(text)
    if expression is None:
        return False
    _value_at(expression, {})
    return True


def is_same_expression(label: str, answer: str, answer_decimals: int | None) -> bool:
    """Whether two normalised expressions have the same value, or else the same text.

    Args:
        answer_decimals: digits after the decimal point where the answer is a plain decimal.
    """
    readings = read_expression(label), read_expression(answer)
    if readings[0] is None or readings[1] is None:
        return is_same_text(label, answer)
    from math_verify import verify
    from sympy import Expr

    if isinstance(readings[0], Expr) and isinstance(readings[1], Expr):
        close = _close_at_points(*readings, answer_decimals)
        if close is not None:
            return close
    return bool(verify([readings[0]], [readings[1]], timeout_seconds=None))


def is_roughly_equal(a: str, b: str) -> bool:
    """Whether two expressions have values within 1% of each other: one can be the other rounded."""
    expressions = read_expression(a), read_expression(b)
    if any(expression is None for expression in expressions):
        return False
    values = [_value_at(expression, {}) for expression in expressions]
    if values[0] is None or values[1] is None:
        return False
    return abs(values[0] - values[1]) <= 0.01 * max(abs(values[0]), abs(values[1]))


def is_same_equation(label_sides: Sequence[str], answer_sides: Sequence[str]) -> bool:
    """Whether two equations are one: the differences of their sides have a constant ratio."""
    sides: list[Any] = [read_expression(side) for side in (*label_sides, *answer_sides)]
    if any(side is None for side in sides):
        return is_same_text("=".join(label_sides), "=".join(answer_sides))
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
    difference = label - answer
    compared = False
    for at in _points(symbols):
        # The difference is evaluated as a whole: sympy adds digits until it is known, so that
        # 2^100 - 1 and 2^100 differ.
        value, difference_value = _value_at(label, at), _value_at(difference, at)
        if value is None or difference_value is None:
            continue
        tolerance = _TOLERANCE * abs(value) if symbols else _NOISE
        if not symbols and answer_decimals and abs(value) * 10.0**answer_decimals >= _ROUNDED:
            tolerance = 10.0**-answer_decimals
        if abs(difference_value) > max(tolerance, _NOISE):
            return False
        compared = True
    return True if compared else None


@cache
def _reading_rules() -> Any:
    """math-verify's rules for LaTeX, except that it would drop a final `h` or `m` as a unit."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig

    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="all"
    )
    return LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)


def _exact(expression: Any) -> Any:
    """An expression whose decimals are the fractions that were written, and not nearby doubles."""
    from sympy import Expr, Float, Rational

    if not isinstance(expression, Expr):
        return expression
    return expression.xreplace({f: Rational(str(f)) for f in expression.atoms(Float)})


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
