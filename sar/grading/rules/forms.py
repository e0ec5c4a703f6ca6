"""Compares two single values: numbers, expressions, or equations such as `x = 5`.

Runs only in a grader process.
"""

from __future__ import annotations

import logging
import re
from itertools import pairwise
from typing import Any

from sar.grading.rules.expressions import Expression, read_expression
from sar.grading.rules.quantities import is_same_quantity, read_quantity
from sar.grading.rules.relations import is_relation, is_same_relation
from sar.grading.rules.special_numbers import compare_numbers, compare_ratios
from sar.grading.rules.structures import split_sides
from sar.grading.rules.unfinished import find_unfinished
from sar.grading.rules.values import is_rounding_of, is_same_tree
from sar.grading.rules.words import is_same_spelling, is_same_text, is_textual
from sar.grading.verdict import Comparison

# math-verify warns at each call that its own timeouts are off. The pool has timeouts instead.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|phi|varphi|psi|rho|sigma|tau|omega|ell)"
)
_SIMPLE_NAME = (
    rf"(?:\\angle\s*)?(?:[A-Z]{{1,4}}|[a-zA-Z]|{_GREEK}|[A-Z]?[a-z]{{3,}}(?: [a-z]+)*)"
    r"(?:_\s*(?:\{[^{}]*\}|\w))?'{0,2}(?:\s*\([\w, \\]{1,12}\))?|\|[A-Z]{2}\|"
)
# What an equation may define: `x` (math-x_equals-003), `x_1`, `AB`, `|AB|`, `\angle B`, `f(x)`,
# `area of the square`, the ratios `S:T` and `\\frac{NO}{BO}`.
_NAME = re.compile(
    rf"(?:{_SIMPLE_NAME})(?:\s*[:/]\s*(?:{_SIMPLE_NAME}))*"
    rf"|\\frac\s*\{{\s*(?:{_SIMPLE_NAME})\s*\}}\s*\{{\s*(?:{_SIMPLE_NAME})\s*\}}"
)
_SIMPLE = re.compile(_SIMPLE_NAME)
_FRACTION = re.compile(r"/|\\frac")
# `y = 3`, a value with its name.
_NAMED_NUMBER = re.compile(rf"\s*({_SIMPLE_NAME})\s*=\s*([-\d.,/]+)\s*")
# The root `x_1` or `x_{12}` of an equation in x.
_ROOT_NAME = re.compile(r"([a-zA-Z])(?:_\s*\{?\s*)?(\d*)\s*\}?")
_VARIABLE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])")
# What stands in brackets, above or below a name: the 2 of `f(2)`, `x_2`, `x^2`.
_BESIDES = re.compile(r"[_^]\s*(?:\{[^{}]*\}|\w)|\([^()]*\)")
# `2x = 14 → x = 7`: what follows the last arrow is the answer.
_STEP = re.compile(r"→|⇒|\\(?:to|rightarrow|Rightarrow|implies|Longrightarrow)(?![a-z])|[-=]>")
_APPROXIMATELY = re.compile(r"\\approx|\\simeq|\\sim(?![a-z])")


def compare_as_text(label: str, answer: str) -> Comparison:
    """Compares a label that cannot be parsed with an answer, as texts."""
    is_equal = is_same_text(label, answer)
    return Comparison(is_equal, f"the texts are {'the same' if is_equal else 'different'}")


def compare_values(label: str, answer: str) -> Comparison:
    """Compares two parts that may start with `x =`, be equations, or be followed by a rounding."""
    steps = _STEP.split(answer)
    if all("=" in step for step in steps):
        if _gives_two_values(steps):
            return Comparison(False, "the answer gives one name two values")
        answer = steps[-1]
    label_sides, answer_sides = split_sides(label), split_sides(answer)
    if read_quantity(answer_sides[0]) and _NAME.fullmatch(answer_sides[-1]):
        answer_sides.reverse()  # `5 = x`
    if false := _find_false_equation(answer_sides):
        return Comparison(False, f"the answer says that {false}")
    is_named = len(label_sides) > 1 and _NAME.fullmatch(label_sides[0]) is not None
    if len(label_sides) > 1 and not is_named and len(answer_sides) == 1:
        return Comparison(False, "the label is an equation, the answer is not")
    if len(label_sides) == 1 and len(answer_sides) > 1 and not _is_named(answer_sides[0]):
        return Comparison(False, "the answer is an equation to solve")
    if len(label_sides) > 1 and len(answer_sides) > 1:
        has_same_name = _is_same_name(label_sides[0], answer_sides[0])
        if not has_same_name and re.search("[a-zA-Z]", answer_sides[0]):
            # For the label `x = 5`, `2x + 1 = 11` is not yet solved. But `2x-y+3=0` equals `y=2x+3`
            # (math-lines_equations-002).
            is_solution = is_named and not _VARIABLE.search(label_sides[-1])
            is_solution = is_solution and _SIMPLE.fullmatch(label_sides[0]) is not None
            is_equal = not is_solution and _is_same_equation(label, answer)
            return Comparison(is_equal, f"the equations {_say_or_not(is_equal)} the same")
    return _compare_forms(label_sides[-1], answer_sides[-1])


def _is_same_name(label: str, answer: str) -> bool:
    """Whether two left sides name the same; `x` may stand for the root `x_1`."""
    if is_same_text(label, answer):
        return True
    roots = _ROOT_NAME.fullmatch(label), _ROOT_NAME.fullmatch(answer)
    return bool(
        roots[0] and roots[1] and roots[0][1] == roots[1][1] and "" in (roots[0][2], roots[1][2])
    )


def _find_false_equation(sides: list[str]) -> str:
    """Returns the first equation between two different numbers, such as `72 = 73`, or "".

    A wrong calculation, such as `70 + 2 = 73`, states 73.
    """
    for left, right in pairwise(sides):
        numbers = read_quantity(left), read_quantity(right)
        if numbers[0] and numbers[1] and not is_same_quantity(numbers[0], numbers[1]):
            return f"{left} = {right}"
    return ""


def _is_named(left_side: str) -> bool:
    """Whether the left side of an equation names its value or calculates it.

    `x`, `f(2)`, `m + n`, `x^2 + y^2` and `70 + 3` do; `2x + 1` and `-x` are to be solved.
    """
    if _NAME.fullmatch(left_side):
        return True
    if left_side.startswith("-") or _is_with_number(left_side):
        return False
    return read_expression(left_side) is not None or is_textual(left_side)


def _is_with_number(left_side: str) -> bool:
    """Whether a text has one variable, and a number outside brackets, powers and indices."""
    has_number = re.search(r"\d", _BESIDES.sub("", left_side)) is not None
    return has_number and len(set(_VARIABLE.findall(left_side))) == 1


def _gives_two_values(steps: list[str]) -> bool:
    """Whether two steps such as `x = 6` and `x = 5` contradict each other."""
    named = [match for step in steps if (match := _NAMED_NUMBER.fullmatch(step))]
    return len({m[2] for m in named}) > 1 and len({m[1] for m in named}) < len(named)


def get_root_letter(name: str) -> str | None:
    """Returns the x of a root's name, `x_1` or `x`; None for any other name."""
    root = _ROOT_NAME.fullmatch(name)
    return root[1] if root else None


def _is_same_equation(label: str, answer: str) -> bool:
    relations = read_expression(label), read_expression(answer)
    if relations[0] is None or relations[1] is None:
        return is_same_text(label, answer)
    if not is_relation(relations[0].tree) or not is_relation(relations[1].tree):
        return False
    return is_same_relation(relations[0].tree, relations[1].tree)


def _compare_forms(label: str, answer: str) -> Comparison:
    """Compares a value with one that may be followed by its rounding: `22/7 \\approx 3.143`."""
    forms = [form.strip() for form in _APPROXIMATELY.split(answer) if form.strip()]
    if len(forms) > 1 and _NAME.fullmatch(forms[0]):
        forms = forms[1:]  # `x \approx 11`
    if len(forms) > 2 or (len(forms) == 2 and not _is_rounded(*forms)):
        return Comparison(False, f"{forms[-1]} is not {forms[0]}, rounded: two answers are none")
    wanted = [form.strip() for form in _APPROXIMATELY.split(label) if form.strip()]
    comparisons = [_compare_form(one, form) for form in forms for one in wanted]
    equal = [comparison for comparison in comparisons if comparison.is_equal]
    return (equal or comparisons or [Comparison(False, "there is no value")])[0]


def _is_rounded(exact: str, rounded: str) -> bool:
    expressions, decimals = (
        (read_expression(exact), read_expression(rounded)),
        _count_decimals(rounded),
    )
    if (
        expressions[0] is None
        or expressions[1] is None
        or decimals is None
        or _FRACTION.search(rounded)
    ):
        return False
    return is_rounding_of(expressions[0], expressions[1], decimals)


def _compare_form(label: str, answer: str) -> Comparison:
    if is_same_spelling(label, answer):
        return Comparison(True, "the values are written in the same way")
    if special := compare_ratios(label, answer) or compare_numbers(label, answer):
        return special
    expressions = read_expression(label), read_expression(answer)
    if expressions[0] is None or expressions[1] is None:
        comparison = compare_as_text(label, answer)
        unread = "label" if expressions[0] is None else "answer"
        return Comparison(comparison.is_equal, f"the {unread} is no expression; {comparison.rule}")
    return _compare_expressions(expressions[0], expressions[1], answer)


def _compare_expressions(label: Expression, answer: Expression, text: str) -> Comparison:
    from sympy import Expr, MatrixBase

    trees = label.tree, answer.tree
    if label.unit and answer.unit and label.unit != answer.unit:
        return Comparison(False, f"the units are different: {answer.unit}, not {label.unit}")
    if isinstance(trees[0], MatrixBase) and isinstance(trees[1], MatrixBase):
        entries = zip(trees[0].flat(), trees[1].flat(), strict=False)
        is_equal = trees[0].shape == trees[1].shape and all(
            _compare_expressions(
                Expression(a, label.computed), Expression(b, answer.computed), text
            ).is_equal
            for a, b in entries
        )
        return Comparison(is_equal, f"the matrices are {'' if is_equal else 'not '}equal")
    if is_relation(trees[0]) and is_relation(trees[1]):
        is_equal = is_same_relation(trees[0], trees[1])
        return Comparison(is_equal, f"the relations {_say_or_not(is_equal)} the same")
    if not isinstance(trees[0], Expr) or not isinstance(trees[1], Expr):
        is_equal = is_same_set(trees[0], trees[1])
        return Comparison(is_equal, f"the sets are {'' if is_equal else 'not '}equal")
    if undone := find_unfinished(label, answer):
        return Comparison(False, f"the answer is not worked out: {undone}")
    is_equal = bool(is_same_tree(trees[0], trees[1], _count_decimals(text)))
    return Comparison(is_equal, f"the values are {'' if is_equal else 'not '}equal")


def is_same_set(label: Any, answer: Any) -> bool:
    """Whether math-verify finds two sets or intervals equal."""
    from math_verify import verify
    from sympy import Set

    if not isinstance(label, Set) or not isinstance(answer, Set):
        return False
    return bool(verify([label], [answer], timeout_seconds=None))


def _count_decimals(text: str) -> int | None:
    """Returns the digits after the point of an integer or decimal; None for any other text."""
    quantity = read_quantity(text)
    if quantity is None or (quantity.num_decimals is None and quantity.value.denominator > 1):
        return None
    return quantity.num_decimals or 0


def _say_or_not(is_equal: bool) -> str:
    return "say" if is_equal else "do not say"
