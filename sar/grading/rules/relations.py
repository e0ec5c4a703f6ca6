"""Decides whether two equations or inequalities say the same: `x - 2 = 3` and `x = 5`.

Runs only in a grader process.
"""

from __future__ import annotations

from typing import Any

from sar.grading.rules.unfinished import is_finished
from sar.grading.rules.values import choose_points, evaluate_at

_TOLERANCE = 1e-12


def is_relation(tree: Any) -> bool:
    """Whether a parsed expression is an equation, an inequality, or a chain of them."""
    from sympy import And
    from sympy.core.relational import Relational

    return isinstance(tree, (And, Relational))


def is_same_relation(label: Any, answer: Any) -> bool:
    """Whether two relations between the same variables have the same solutions."""
    from sympy import And, Eq, Ne

    if label == answer:
        return True
    if label.free_symbols != answer.free_symbols or not label.free_symbols:
        return False
    if isinstance(label, And) or isinstance(answer, And):
        return _has_same_solutions(label, answer)
    try:
        differences = [side.lhs - side.rhs for side in (label, answer)]
    except TypeError:  # sets or intervals on one side
        return False
    if isinstance(label, (Eq, Ne)) or isinstance(answer, (Eq, Ne)):
        return type(label) is type(answer) and _has_same_zeros(*differences)
    signs = [1 if side.rel_op in (">", ">=") else -1 for side in (label, answer)]
    is_strict = [side.rel_op in ("<", ">") for side in (label, answer)]
    ratio = _find_constant_ratio(*differences)
    if ratio is not None:
        return is_strict[0] == is_strict[1] and ratio.real * signs[0] * signs[1] > 0
    return _has_same_solutions(label, answer)


def _has_same_zeros(label: Any, answer: Any) -> bool:
    """Whether two expressions are zero together.

    Either their ratio is constant, or both are linear in one variable and have the same root in it.
    """
    if _find_constant_ratio(label, answer) is not None:
        return True
    for symbol in sorted(label.free_symbols, key=str):
        wanted, given = _find_linear_roots(label, symbol), _find_linear_roots(answer, symbol)
        if wanted and given:
            pairs = zip(wanted, given, strict=True)
            return all(abs(a - b) <= _TOLERANCE * abs(a) for a, b in pairs)
    return False


def _find_constant_ratio(label: Any, answer: Any) -> complex | None:
    """Returns label / answer if it is the same at all points, else None."""
    ratios = []
    for at in choose_points(label.free_symbols, label):
        a, b = evaluate_at(label, at), evaluate_at(answer, at)
        if a is None or b is None or abs(a) < _TOLERANCE or abs(b) < _TOLERANCE:
            return None
        ratios.append(complex(a / b))
    if all(abs(ratio - ratios[0]) <= _TOLERANCE * abs(ratios[0]) for ratio in ratios):
        return ratios[0]
    return None


def _find_linear_roots(tree: Any, symbol: Any) -> list[complex] | None:
    """Returns the root in a variable at each point of the others; None if it is not linear."""
    roots = []
    for at in choose_points(tree.free_symbols - {symbol}, tree):
        values = [evaluate_at(tree, {**at, symbol: x}) for x in (1, 2, 3)]
        if any(value is None for value in values):
            return None
        a, b, c = (complex(value) for value in values if value is not None)
        if abs(b - a) < _TOLERANCE or abs((c - b) - (b - a)) > _TOLERANCE * abs(b - a):
            return None
        roots.append(1 - a / (b - a))
    return roots


def _has_same_solutions(label: Any, answer: Any) -> bool:
    """Compares the solution sets of two relations of one variable."""
    solutions = find_solutions(label), find_solutions(answer)
    return solutions[0] is not None and solutions[0] == solutions[1]


def is_solved(relation: Any) -> bool:
    """Whether a relation has its variable alone on one side: `x > 2`, `-x < 1`, `1 < x < 2`."""
    from sympy import And, Contains, Eq, Set

    if isinstance(relation, And):
        return all(map(is_solved, relation.args))
    sides = relation.args[:2]
    if isinstance(relation, (Eq, Contains)) and isinstance(sides[1], Set):
        return True
    return any(
        (side.is_Symbol or (-side).is_Symbol) and not other.free_symbols and is_finished(other)
        for side, other in (sides, sides[::-1])
    )


def find_solutions(relation: Any) -> Any:
    """Returns the set of numbers that solve a relation of one variable; None if sympy cannot."""
    from sympy import Contains, Eq, Set

    if isinstance(relation, (Eq, Contains)) and isinstance(relation.args[1], Set):
        return relation.args[1]  # `x \\in [2, 5)`
    if len(relation.free_symbols) != 1:
        return None
    try:
        return relation.as_set()
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return None
