"""Decides whether two mathematical answers are equal, and says by which rule.

Lists, sets, tuples and intervals are compared part by part (`structures`), a single value as a
number, expression or equation (`forms`). Runs only in a grader process.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sar.grading.rules.expressions import read_expression
from sar.grading.rules.forms import (
    compare_values,
    get_root_letter,
    is_same_set,
)
from sar.grading.rules.normalize import normalize_words
from sar.grading.rules.notation import align_variables, rewrite_notation
from sar.grading.rules.quantities import read_quantity
from sar.grading.rules.relations import find_solutions, is_relation, is_solved
from sar.grading.rules.special_numbers import BASED, RATIO, compare_numbers, read_clock
from sar.grading.rules.structures import Structure, read_structure, split_sides
from sar.grading.rules.unfinished import has_finished_ends, is_too_large
from sar.grading.rules.values import evaluate_at
from sar.grading.rules.words import is_same_spelling, is_textual
from sar.grading.verdict import Comparison

# An inequality, an interval, a union or a set such as the real numbers.
_SET_NOTATION = re.compile(r"[<>]|\\(?:le|ge|ne|cup|cap|setminus|infty|mathbb|emptyset)(?![a-z])")
_CONTINUES = re.compile(r"(?:or|and)\b")
# What the derivative in `\frac{dy}{dx}` is with respect to.
_DERIVED_BY = re.compile(r"\\frac\s*\{\s*d[^{}]*\}\s*\{\s*d\s*([a-zA-Z])")

# Pairs for `compare_common_forms`: together they take the parser through most of its grammar.
_COMMON_FORMS = (
    (r"\frac{1}{2} + \sqrt{3}", r"\sqrt{3} + 0.5"),
    (r"\frac{-1 + \sqrt[3]{5}}{2\pi}", r"-\frac{1 - 2\pi}{\sqrt{5}}"),
    (r"x^{2} + 3x - \frac{1}{2}", r"(x - 1)(x + 2.5)"),
    (r"x^2(y+1)^{3}", r"\frac{x_{1} + a_n}{2b}"),
    (r"2\sin x \cos x + e^{-x}", r"\sin(2x) + \tan^{2}(3\theta)"),
    (r"\log_{2} 3 - \ln 5", r"\frac{\ln(3)}{\ln 2} + \log 7"),
    ("y = 2x + 3", "2x - y + 3 = 0"),
    (r"-x \ge -1", r"1 < 2x \le 3"),
    (r"\begin{pmatrix}1 & -2 \\ \frac{1}{2} & x\end{pmatrix}",
     r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}"),
    (r"(-\infty, 2) \cup [3, \infty)", r"\mathbb{R} \setminus \{2\}"),
    (r"\sum_{k=0}^{n-1} k^2", r"\binom{n}{2} + n! - |n|"),
    (r"2 + 3i", r"\overline{z} \cdot 2 \times 10^{5}"),
)  # fmt: skip


def compare_answers(label: str, answer: str) -> Comparison:
    """Compares a normalised answer with a normalised label."""
    if is_same_spelling(label, answer):
        return Comparison(True, "the answer is written as the label is")
    if _CONTINUES.match(answer):
        return Comparison(False, "the answer continues another one")
    answer = rewrite_notation(align_variables(label, answer))
    label = rewrite_notation(label)
    if is_textual(label):
        is_equal = normalize_words(label) == normalize_words(answer)
        return Comparison(is_equal, f"the words are {'' if is_equal else 'not '}the label's")
    if special := compare_numbers(label, answer):
        return special
    derived_by = set(_DERIVED_BY.findall(label)), set(_DERIVED_BY.findall(answer))
    if derived_by[0] and derived_by[1] and derived_by[0] != derived_by[1]:
        return Comparison(False, "the derivatives are with respect to different variables")
    try:
        comparison = _compare_structures(read_structure(label), read_structure(answer))
        if not comparison.is_equal and _is_same_infinite_set(label, answer):
            return Comparison(True, "both are the same set of numbers")
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001  sympy raises any exception for what it cannot do
        return Comparison(False, f"sympy cannot compare them: {type(error).__name__}")
    return comparison


@lru_cache(maxsize=512)
def is_readable(label: str) -> bool:
    """Whether a normalised label is words, or mathematics that we can parse.

    It also evaluates the label, so that the pool can detect a label that takes forever.
    """
    label = rewrite_notation(label)
    if read_quantity(label) or read_clock(label) or is_textual(label):
        return True
    if BASED.fullmatch(label):
        return True
    return all(map(_is_readable_value, read_structure(label).leaves))


def _is_readable_value(part: str) -> bool:
    value = split_sides(part)[-1]
    if read_quantity(value) or RATIO.fullmatch(value):
        return True
    expression = read_expression(value)
    if expression is None:
        return False
    if not is_relation(expression.tree) and not is_too_large(expression.tree):
        evaluate_at(expression.tree, {})
    return True


def _compare_structures(label: Structure, answer: Structure) -> Comparison:
    if len(label.parts) == len(answer.parts) == 1:
        parts = label.parts[0], answer.parts[0]
        if isinstance(parts[0], str) and isinstance(parts[1], str):
            return compare_values(parts[0], parts[1])
    is_equal = _is_same_structure(label, answer)
    if not is_equal and len(label.parts) != len(answer.parts):
        counts = f"{len(label.parts)} and the answer {len(answer.parts)}"
        return Comparison(False, f"the label has {counts} values")
    return Comparison(is_equal, f"the parts are {'all' if is_equal else 'not all'} the same")


def _is_same_structure(label: Structure, answer: Structure) -> bool:
    brackets = (label.brackets, answer.brackets)
    if label.variable and answer.variable and label.variable != answer.variable:
        return False  # `x > 3` is not `y > 3`
    if label.brackets == "()" and (ordered := _order_by_name(answer)):
        answer = ordered
    if _is_in_order(label, answer):
        return len(label.parts) == len(answer.parts) and all(
            map(_is_same_part, label.parts, answer.parts)
        )
    if (label.is_unordered and answer.is_unordered) or brackets == ("U", "U"):
        return _has_same_elements(label.parts, answer.parts)
    # Label or answer may leave out the brackets of (2, 3). The answer [2, 3] also equals the label
    # `2, 3`, but the answer `2, 3` does not equal the interval [2, 3].
    is_same_kind = brackets[0] == brackets[1] or brackets in (("()", ""), ("", "()"), ("", "[]"))
    is_tuple = len(label.parts) > 2 and set(brackets) == {"()", "[]"}
    if not (is_same_kind or is_tuple) or len(label.parts) != len(answer.parts):
        return False
    return all(map(_is_same_part, label.parts, answer.parts))


def _has_same_elements(
    label: tuple[str | Structure, ...], answer: tuple[str | Structure, ...]
) -> bool:
    """Compares two lists whatever their order.

    Lists of the same length must have the same elements as often; else, each element counts once.
    """
    unmatched = list(answer)
    for wanted in label:
        found = next((i for i, part in enumerate(unmatched) if _is_same_part(wanted, part)), None)
        if found is not None:
            unmatched.pop(found)
        elif len(label) == len(answer) or not any(_is_same_part(wanted, part) for part in answer):
            return False
    return all(any(_is_same_part(wanted, part) for wanted in label) for part in unmatched)


def _is_in_order(label: Structure, answer: Structure) -> bool:
    """Whether the label names different values, `k = 45, n = 2`, and the answer only lists values.

    Such values must come in the label's order. Roots such as `x_1 = 2, x_2 = 3` may come in any.
    """
    if label.brackets or len(label.parts) < 2 or answer.brackets not in ("", "()"):
        return False
    names = [split_sides(part) for part in label.parts if isinstance(part, str)]
    if len(names) < len(label.parts) or any(len(sides) < 2 for sides in names):
        return False
    if len({get_root_letter(sides[0]) or sides[0] for sides in names}) == 1:
        return False
    return not any("=" in part for part in answer.parts if isinstance(part, str))


def _order_by_name(answer: Structure) -> Structure | None:
    """Returns the values of `y = 1, x = 2` in the order of their names: `(2, 1)`."""
    if answer.brackets or len(answer.parts) < 2:
        return None
    sides = [split_sides(part) for part in answer.parts if isinstance(part, str)]
    if len(sides) < len(answer.parts) or any(len(s) != 2 or len(s[0]) > 1 for s in sides):
        return None
    return Structure("()", tuple(value for _, value in sorted((s[0], s[1]) for s in sides)))


def _is_same_part(label: str | Structure, answer: str | Structure) -> bool:
    structures = [read_structure(p) if isinstance(p, str) else p for p in (label, answer)]
    return _compare_structures(*structures).is_equal


def _is_same_infinite_set(label: str, answer: str) -> bool:
    """Whether two texts describe one set, as an inequality, intervals or `\\mathbb{R}`."""
    from sympy import FiniteSet, Set

    sets, symbols = [], []
    for text, must_be_solved in ((label, False), (answer, True)):
        if not _SET_NOTATION.search(text):
            return False
        tree = getattr(read_expression(text), "tree", None)
        if tree is not None and is_relation(tree):
            if must_be_solved and not is_solved(tree):
                return False
            symbols.append(tree.free_symbols)
            tree = find_solutions(tree)
        if not isinstance(tree, Set) or isinstance(tree, FiniteSet) or not has_finished_ends(tree):
            return False
        sets.append(tree)
    if len(symbols) == 2 and symbols[0] != symbols[1]:
        return False  # `x > 3` is not `y > 3`
    return is_same_set(*sets)


def compare_common_forms() -> None:
    """Makes the parser and sympy load and compute what they load and compute only once.

    The first expression of a kind takes the parser up to a hundred times as long as the second.
    """
    for label, answer in _COMMON_FORMS:
        compare_answers(label, answer)
