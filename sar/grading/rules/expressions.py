"""Parses single mathematical expressions with math-verify, and compares their values.

It compares values at a few points. Simplifying is slow, and has made `1-1/e` equal `1+1/e`
(Math-Verify issue 14). Runs only in a grader process, because evaluation can take forever.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from sar.grading.rules.units import strip_unit
from sar.grading.rules.words import is_same_text, is_textual

# math-verify warns at each call that its own timeouts are off. The pool has timeouts instead.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_MAX_CHARS = 400
# Values of the variables at which expressions are compared; not zeros or poles of common answers.
_POINTS = ("0.7310585", "1.3862943", "-0.5772156", "2.2360679")
_TOLERANCE = 1e-15
_NUM_DIGITS = 30
# What math-verify reads only in part (`\neg 5` as 5, `\{x \mid x > 1\}` as 1), reads differently
# (`3:4` as 3/4, math-ratios-004), or evaluates although it is not an answer (`\gcd(4, 6)`).
_MISREAD = re.compile(
    r"\\(?:mid|equiv|pmod|bmod|mod|gcd|lcm|neg|sim|sum|prod|int|lim|partial|max|min|det|ldots|cdots"
    r"|dots|begin\{cases\})(?![a-zA-Z])|\\frac\{d[\w^ ]*\}\{d|\.\.\.|['?:]|\^\{?T\b"
    r"|^\s*(?:\\le|\\ge|<|>)|\d\s*mod\b|\bgcd\b|\bmax\b|\bmin\b"
)
# Largest rounding error of a difference that is zero.
_NOISE = 1e-25
# A decimal with at least six significant digits may be rounded.
_ROUNDED = 1e5


@lru_cache(maxsize=512)  # the rollouts of one prompt share a label
def read_expression(text: str) -> Any | None:
    """Parses a normalised expression into a sympy object; None if math-verify cannot parse it."""
    from math_verify import parse

    text = strip_unit(text)
    if not text or len(text) > _MAX_CHARS or is_textual(text) or _MISREAD.search(text):
        return None
    # math-verify can parse 96% of labels inside a box, and only two thirds without it.
    parsed = parse(rf"\boxed{{{text}}}", [_make_parsing_rules()], parsing_timeout=None)
    return _make_exact(parsed[0]) if parsed and not isinstance(parsed[0], str) else None


def is_computable(text: str) -> bool:
    """Whether an expression can be parsed. Also evaluates it, which may take forever."""
    expression = read_expression(text)
    if expression is None:
        return False
    _evaluate(expression, {})
    return True


def is_same_expression(label: str, answer: str, answer_decimals: int | None) -> bool:
    """Whether two normalised expressions have the same value, or the same text if unparsable.

    Args:
        answer_decimals: digits after the decimal point if the answer is a plain decimal, else None.
    """
    readings = read_expression(label), read_expression(answer)
    if readings[0] is None or readings[1] is None:
        return is_same_text(label, answer)
    from math_verify import verify
    from sympy import Expr

    if isinstance(readings[0], Expr) and isinstance(readings[1], Expr):
        is_equal = _is_equal_at_points(*readings, answer_decimals)
        if is_equal is not None:
            return is_equal
    return bool(verify([readings[0]], [readings[1]], timeout_seconds=None))


def is_roughly_equal(a: str, b: str) -> bool:
    """Whether two expressions' values differ by at most 1%, so one may be the other rounded."""
    expressions = read_expression(a), read_expression(b)
    if any(expression is None for expression in expressions):
        return False
    values = [_evaluate(expression, {}) for expression in expressions]
    if values[0] is None or values[1] is None:
        return False
    return abs(values[0] - values[1]) <= 0.01 * max(abs(values[0]), abs(values[1]))


def is_same_equation(label_sides: Sequence[str], answer_sides: Sequence[str]) -> bool:
    """Whether two equations are equivalent: left minus right sides have a constant ratio."""
    sides: list[Any] = [read_expression(side) for side in (*label_sides, *answer_sides)]
    if any(side is None for side in sides):
        return is_same_text("=".join(label_sides), "=".join(answer_sides))
    try:
        label, answer = (left - right for left, right in (sides[:2], sides[2:]))
    except TypeError:  # they are sets, intervals or relations
        return False
    if not hasattr(label, "free_symbols") or label.free_symbols != answer.free_symbols:
        return False
    ratios = []
    for at in _choose_points(label.free_symbols):
        a, b = _evaluate(label, at), _evaluate(answer, at)
        if a is None or b is None or abs(a) < _TOLERANCE or abs(b) < _TOLERANCE:
            return False
        ratios.append(a / b)
    return all(abs(ratio - ratios[0]) <= _TOLERANCE * abs(ratios[0]) for ratio in ratios)


def _is_equal_at_points(label: Any, answer: Any, answer_decimals: int | None) -> bool | None:
    """Whether two expressions are equal at each point where both have a value; None if nowhere."""
    symbols = label.free_symbols | answer.free_symbols
    difference = label - answer
    was_compared = False
    for at in _choose_points(symbols):
        # sympy evaluates the difference with as many digits as it needs: 2^100 - 1 is not 2^100.
        value, difference_value = _evaluate(label, at), _evaluate(difference, at)
        if value is None or difference_value is None:
            continue
        tolerance = _TOLERANCE * abs(value) if symbols else _NOISE
        if not symbols and answer_decimals and abs(value) * 10.0**answer_decimals >= _ROUNDED:
            tolerance = 10.0**-answer_decimals
        if abs(difference_value) > max(tolerance, _NOISE):
            return False
        was_compared = True
    return True if was_compared else None


@cache
def _make_parsing_rules() -> Any:
    """Returns math-verify's rules for LaTeX, without units: they would drop a final `h` or `m`."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig

    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="all"
    )
    return LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)


def _make_exact(expression: Any) -> Any:
    """Replaces the floats of an expression by the exact decimals that were written."""
    from sympy import Expr, Float, Rational

    if not isinstance(expression, Expr):
        return expression
    return expression.xreplace({f: Rational(str(f)) for f in expression.atoms(Float)})


def _choose_points(symbols: set[Any]) -> list[dict[Any, str]]:
    """Returns assignments of values to the symbols; without symbols, one empty assignment."""
    if not symbols:
        return [{}]
    ordered = sorted(symbols, key=str)
    return [
        {symbol: _POINTS[(i + shift) % len(_POINTS)] for i, symbol in enumerate(ordered)}
        for shift in range(len(_POINTS))
    ]


def _evaluate(expression: Any, at: dict[Any, str]) -> complex | None:
    try:
        value = complex(expression.evalf(_NUM_DIGITS, subs=at))
    except (TypeError, ValueError, OverflowError, AttributeError, ZeroDivisionError):
        return None  # it has no value: a set, an undefined function, a pole
    return value if abs(value) < float("inf") else None
