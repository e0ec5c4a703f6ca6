"""Parses single mathematical expressions into sympy objects, without evaluating them.

The parser is math-verify's (`latex2sympy2_extended`). It gets only text that it reads completely
(see `tokens`). Runs only in a grader process, because parsing can take forever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from sar.grading.rules.tokens import list_commands, prepare_expression
from sar.grading.rules.units import Unit, read_unit, strip_unit

_TRIGONOMETRY = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
# What the parser computes at once, so that the tree no longer shows it.
_COMPUTED_BY_PARSER = frozenset({"gcd", "lcm", "max", "min", "det", "vmatrix", "div"})
_BINOMIAL = re.compile(r"\s*\\binom\s*\{\s*\w+\s*\}\s*\{\s*\w+\s*\}\s*")
_NUMBER_E = re.compile(r"(?<![a-zA-Z\\])e(?![a-zA-Z])|\\exp(?![a-z])")


@dataclass(frozen=True)
class Expression:
    """A parsed expression."""

    tree: Any
    """A sympy object whose operations are still to be done, or a matrix."""
    computed: frozenset[str]
    """Operations that the parser has done: `gcd`, `det`."""
    unit: Unit | None = None
    """The unit after the expression, if we know it."""

    @property
    def symbols(self) -> frozenset[Any]:
        """The free variables; empty for a number."""
        return frozenset(getattr(self.tree, "free_symbols", ()))


@lru_cache(maxsize=512)  # the rollouts of one prompt share a label
def read_expression(text: str) -> Expression | None:
    """Parses a normalised expression; None if some part of it is no mathematics that we know."""
    prepared = prepare_expression(strip_unit(text))
    if prepared is None:
        return None
    from latex2sympy2_extended import latex2sympy
    from sympy import MatrixExpr

    commands = list_commands(prepared)
    try:
        tree = latex2sympy(
            prepared,
            is_real=True,
            convert_degrees=bool(commands & _TRIGONOMETRY),
            normalization_config=None,
            conversion_config=_make_conversion_rules(),
        )
        tree = _make_exact(tree.doit() if isinstance(tree, MatrixExpr) else tree)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001  the parser raises plain exceptions for what it cannot parse
        return None
    if tree is None or isinstance(tree, (list, str)):
        return None
    computed = commands & _COMPUTED_BY_PARSER
    if "binom" in commands:
        computed |= {"binomial" if _BINOMIAL.fullmatch(prepared) else "calculation with binomials"}
    if ":" in prepared:
        computed |= {"ratio"}
    if _NUMBER_E.search(prepared):
        computed |= {"power of e"}  # the parser computes e^0
    return Expression(tree, computed, read_unit(text[len(strip_unit(text)) :]))


@cache
def _make_conversion_rules() -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    return ConversionConfig(lowercase_symbols=False)


def _make_exact(tree: Any) -> Any:
    """Replaces floats by the decimals that were written, percent by 1/100, and the letter i."""
    from sympy import Float, I, MatrixBase, Mul, Rational, Symbol, UnevaluatedExpr, evaluate

    if isinstance(tree, MatrixBase):
        return tree.applyfunc(_make_exact)
    if not hasattr(tree, "atoms"):
        return tree
    exact: dict[Any, Any] = {f: Rational(str(f)) for f in tree.atoms(Float)}
    percent = UnevaluatedExpr(Rational(1, 100))
    exact[percent] = Rational(1, 100)
    for product in tree.atoms(Mul):
        number, *others = (f for f in product.args if f != percent)
        if len(product.args) == 2 and not others and number.is_Number:
            exact[product] = Rational(str(number)) / 100  # `15%` is one number
    bound = {v for limits in _list_limits(tree) for v in limits.args[:1]}
    imaginary = {s: I for s in tree.atoms(Symbol) - bound if s.name == "i"}
    with evaluate(False):
        return tree.xreplace({**exact, **imaginary})


def _list_limits(tree: Any) -> list[Any]:
    from sympy import Integral, Product, Sum

    return [limits for node in tree.atoms(Sum, Product, Integral) for limits in node.limits]
