"""Decides whether two mathematical answers are equal, and says by which rule.

Plain numbers must be equal exactly (`quantities`), lists and intervals part by part (`structures`),
expressions in value (`values`), equations in what they say (`relations`). Times of day, ratios and
numbers with a base have rules here. Runs only in a grader process.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from math import gcd
from typing import Any

from sar.grading.rules.expressions import Expression, read_expression
from sar.grading.rules.normalize import normalize_words
from sar.grading.rules.quantities import is_same_quantity, read_quantity
from sar.grading.rules.relations import find_solutions, is_relation, is_same_relation
from sar.grading.rules.structures import Structure, read_structure, split_sides
from sar.grading.rules.unfinished import find_unfinished, is_too_large
from sar.grading.rules.values import evaluate_at, is_rounding_of, is_same_tree
from sar.grading.rules.words import is_same_spelling, is_same_text, is_textual
from sar.grading.verdict import Comparison

# `1011_2`, `110_{6}` (second-m2-base-259), `21 (base 5)`.
_BASED = re.compile(r"([0-9A-Fa-f]+)\s*(?:_\s*\{?\s*(\d+|[a-z]+)\s*\}?|\(?(?:in )?base (\d+)\)?)")
# `4:30`, `4:30 p.m.` (math-clock_times-002); `4 p.m.`
_CLOCK = re.compile(
    r"(\d{1,2})\s*:\s*(\d{2})(?!\d)\s*(?:([ap])\.?\s*m\b\.?)?[a-z ]{0,12}", re.IGNORECASE
)
_CLOCK_HOUR = re.compile(r"(\d{1,2})()\s*([ap])\.?\s*m\b\.?[a-z ]{0,12}", re.IGNORECASE)
_RATIO = re.compile(r"\d{1,9}(?:\s*:\s*\d{1,9})+")
_SIMPLE_NAME = (
    r"(?:\\angle\s*)?(?:[A-Z]{1,4}|[a-zA-Z]|\\[a-z]+|[A-Z]?[a-z]{3,}(?: [a-z]+)*)(?:_\s*\{?\w+\}?)?"
    r"'{0,2}(?:\s*\([\w, \\]{1,12}\))?|\|[A-Z]{2}\|"
)
# What an equation may define: `x` (math-x_equals-003), `x_1`, `AB`, `|AB|`, `\angle B`, `f(x)`,
# `area of the square`, the ratios `S:T` and `\\frac{NO}{BO}`.
_NAME = re.compile(
    rf"(?:{_SIMPLE_NAME})(?:\s*[:/]\s*(?:{_SIMPLE_NAME}))*"
    rf"|\\frac\s*\{{\s*(?:{_SIMPLE_NAME})\s*\}}\s*\{{\s*(?:{_SIMPLE_NAME})\s*\}}"
)
_SIMPLE = re.compile(_SIMPLE_NAME)
# The root `x_1` or `x_{12}` of an equation in x.
_ROOT_NAME = re.compile(r"([a-zA-Z])(?:_\s*\{?\s*)?(\d*)\s*\}?")
_VARIABLE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])")
# What stands in brackets, above or below a name: the 2 of `f(2)`, `x_2`, `x^2`.
_BESIDES = re.compile(r"[_^]\s*(?:\{[^{}]*\}|\w)|\([^()]*\)")
# An inequality, an interval, a union or a set such as the real numbers.
_SET_NOTATION = re.compile(r"[<>]|\\(?:le|ge|ne|cup|cap|setminus|infty|mathbb|emptyset)(?![a-z])")
# `2x = 14 → x = 7`: what follows the last arrow is the answer.
_STEP = re.compile(r"→|⇒|\\(?:to|rightarrow|Rightarrow|implies|Longrightarrow)(?![a-z])|[-=]>")
_APPROXIMATELY = re.compile(r"\\approx|\\simeq|\\sim(?![a-z])")

# Pairs for `warm_up`: together they take the parser through most of its grammar.
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


def compare_as_text(label: str, answer: str) -> Comparison:
    """Compares a label that cannot be parsed with an answer, as texts."""
    is_equal = is_same_text(label, answer)
    return Comparison(is_equal, f"the texts are {'the same' if is_equal else 'different'}")


def compare_answers(label: str, answer: str) -> Comparison:
    """Compares a normalised answer with a normalised label."""
    if is_same_spelling(label, answer):
        return Comparison(True, "the answer is written as the label is")
    if is_textual(label):
        is_equal = normalize_words(label) == normalize_words(answer)
        return Comparison(is_equal, f"the words are {'' if is_equal else 'not '}the label's")
    if special := _compare_notation(label, answer):
        return special
    comparison = _compare_structures(read_structure(label), read_structure(answer))
    if not comparison.is_equal and _is_same_infinite_set(label, answer):
        return Comparison(True, "both are the same set of numbers")
    return comparison


@lru_cache(maxsize=512)
def is_readable(label: str) -> bool:
    """Whether a normalised label is words, or mathematics that we can parse.

    It also evaluates the label, so that the pool can detect a label that takes forever.
    """
    if read_quantity(label) or _read_clock(label) or is_textual(label):
        return True
    if _BASED.fullmatch(label):
        return True
    return all(map(_is_readable_value, read_structure(label).leaves))


def _is_readable_value(part: str) -> bool:
    value = split_sides(part)[-1]
    if read_quantity(value) or _RATIO.fullmatch(value):
        return True
    expression = read_expression(value)
    if expression is None:
        return False
    if not is_relation(expression.tree) and not is_too_large(expression.tree):
        evaluate_at(expression.tree, {})
    return True


def _compare_notation(label: str, answer: str) -> Comparison | None:
    """Compares numbers, times of day and numbers with a base; None if label or answer is none."""
    quantities = read_quantity(label), read_quantity(answer)
    if quantities[0] and quantities[1]:
        is_equal = is_same_quantity(quantities[0], quantities[1])
        return Comparison(is_equal, f"{quantities[1]} {_is_or_not(is_equal)} {quantities[0]}")
    times = _read_clock(label), _read_clock(answer)
    if times[0] and times[1]:
        is_equal = _is_same_clock(times[0], times[1])
        return Comparison(is_equal, f"the times are {'the same' if is_equal else 'different'}")
    if quantities[0] and times[1]:
        is_equal = quantities[0].value == times[1][0] and times[1][1] == 0
        return Comparison(is_equal, "the answer is a time of day")
    based = _BASED.fullmatch(label), _BASED.fullmatch(answer)
    if based[1] and not based[0] and _get_base(based[1]) != "10":
        return Comparison(False, f"the answer is in base {_get_base(based[1])}, the label is not")
    if based[0] and re.fullmatch(r"[0-9A-Fa-f]+", answer):
        is_equal = based[0][1].upper() == answer.upper()
        return Comparison(is_equal, "the answer leaves out the base")
    if based[0] and based[1]:
        is_same_base = _get_base(based[0]) == _get_base(based[1])
        is_equal = is_same_base and based[0][1].upper() == based[1][1].upper()
        return Comparison(is_equal, f"the digits or bases are {'' if is_equal else 'not '}the same")
    return None


def _compare_structures(label: Structure, answer: Structure) -> Comparison:
    if len(label.parts) == len(answer.parts) == 1:
        parts = label.parts[0], answer.parts[0]
        if isinstance(parts[0], str) and isinstance(parts[1], str):
            return _compare_values(parts[0], parts[1])
    is_equal = _is_same_structure(label, answer)
    if not is_equal and len(label.parts) != len(answer.parts):
        counts = f"{len(label.parts)} and the answer {len(answer.parts)}"
        return Comparison(False, f"the label has {counts} values")
    return Comparison(is_equal, f"the parts are {'all' if is_equal else 'not all'} the same")


def _is_same_structure(label: Structure, answer: Structure) -> bool:
    brackets = (label.brackets, answer.brackets)
    if _is_in_order(label, answer):
        return len(label.parts) == len(answer.parts) and all(
            map(_is_same_part, label.parts, answer.parts)
        )
    if (label.is_unordered and answer.is_unordered) or brackets == ("U", "U"):
        return all(any(_is_same_part(a, b) for b in answer.parts) for a in label.parts) and all(
            any(_is_same_part(a, b) for a in label.parts) for b in answer.parts
        )
    # Label or answer may leave out the brackets of (2, 3). The answer [2, 3] also equals the label
    # `2, 3`, but the answer `2, 3` does not equal the interval [2, 3].
    is_same_kind = brackets[0] == brackets[1] or brackets in (("()", ""), ("", "()"), ("", "[]"))
    if not is_same_kind or len(label.parts) != len(answer.parts):
        return False
    return all(map(_is_same_part, label.parts, answer.parts))


def _is_in_order(label: Structure, answer: Structure) -> bool:
    """Whether the label names different values, `k = 45, n = 2`, and the answer only lists values.

    Such values must come in the label's order. Roots such as `x_1 = 2, x_2 = 3` may come in any.
    """
    if label.brackets or len(label.parts) < 2 or answer.brackets not in ("", "()"):
        return False
    names = [split_sides(part) for part in label.parts if isinstance(part, str)]
    if len(names) < len(label.parts) or any(len(sides) < 2 for sides in names):
        return False
    letters = [_ROOT_NAME.fullmatch(sides[0]) for sides in names]
    if len({m[1] if m else str(i) for i, m in enumerate(letters)}) == 1:
        return False
    return not any("=" in part for part in answer.parts if isinstance(part, str))


def _is_same_part(label: str | Structure, answer: str | Structure) -> bool:
    structures = [read_structure(p) if isinstance(p, str) else p for p in (label, answer)]
    return _compare_structures(*structures).is_equal


def _compare_values(label: str, answer: str) -> Comparison:
    """Compares two parts that may start with `x =`, be equations, or be followed by a rounding."""
    steps = _STEP.split(answer)
    if all("=" in step for step in steps):
        answer = steps[-1]
    label_sides, answer_sides = split_sides(label), split_sides(answer)
    if read_quantity(answer_sides[0]) and _NAME.fullmatch(answer_sides[-1]):
        answer_sides.reverse()  # `5 = x`
    if false := _find_false_equation(answer_sides):
        return Comparison(False, f"the answer says that {false}")
    is_named = len(label_sides) > 1 and _NAME.fullmatch(label_sides[0]) is not None
    if len(label_sides) > 1 and not is_named and len(answer_sides) == 1:
        return Comparison(False, "the label is an equation, the answer is not")
    if len(label_sides) == 1 and len(answer_sides) > 1 and _is_unsolved(answer_sides[0]):
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


def _is_unsolved(left_side: str) -> bool:
    """Whether the left side of an equation has a number: `2x + 1`, but not `f(2)` or `m + n`."""
    return re.search(r"\d", _BESIDES.sub("", left_side)) is not None and bool(
        _VARIABLE.search(left_side)
    )


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
    for form in forms[1:]:
        exact, rounded = read_expression(forms[0]), read_expression(form)
        if not (exact and rounded and is_rounding_of(exact, rounded, _count_decimals(form))):
            return Comparison(False, f"{form} is not {forms[0]}, rounded: two answers are none")
    wanted = [form.strip() for form in _APPROXIMATELY.split(label) if form.strip()]
    comparisons = [_compare_form(one, form) for form in forms for one in wanted]
    equal = [comparison for comparison in comparisons if comparison.is_equal]
    return (equal or comparisons or [Comparison(False, "there is no value")])[0]


def _compare_form(label: str, answer: str) -> Comparison:
    if is_same_spelling(label, answer):
        return Comparison(True, "the values are written in the same way")
    if _RATIO.fullmatch(label) and _RATIO.fullmatch(answer):
        is_equal = _reduce_ratio(label) == _reduce_ratio(answer)
        return Comparison(is_equal, f"the ratios are {'' if is_equal else 'not '}the same")
    if special := _compare_notation(label, answer):
        return special
    expressions = read_expression(label), read_expression(answer)
    if expressions[0] is None or expressions[1] is None:
        comparison = compare_as_text(label, answer)
        unread = "label" if expressions[0] is None else "answer"
        return Comparison(comparison.is_equal, f"the {unread} is no expression; {comparison.rule}")
    try:
        return _compare_expressions(expressions[0], expressions[1], answer)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001  sympy raises any exception for what it cannot do
        return Comparison(False, f"sympy cannot compare the values: {type(error).__name__}")


def _compare_expressions(label: Expression, answer: Expression, text: str) -> Comparison:
    from sympy import Expr, MatrixBase, MatrixExpr

    trees = label.tree, answer.tree
    if isinstance(trees[1], MatrixExpr):
        trees = trees[0], trees[1].doit()
    if isinstance(trees[0], MatrixBase) and isinstance(trees[1], MatrixBase):
        is_equal = trees[0].shape == trees[1].shape and all(
            is_same_tree(a, b) for a, b in zip(*(tree.flat() for tree in trees), strict=True)
        )
        return Comparison(is_equal, f"the matrices are {'' if is_equal else 'not '}equal")
    if is_relation(trees[0]) and is_relation(trees[1]):
        is_equal = is_same_relation(trees[0], trees[1])
        return Comparison(is_equal, f"the relations {_say_or_not(is_equal)} the same")
    if not isinstance(trees[0], Expr) or not isinstance(trees[1], Expr):
        is_equal = _is_same_set(trees[0], trees[1])
        return Comparison(is_equal, f"the sets are {'' if is_equal else 'not '}equal")
    if undone := find_unfinished(label, answer):
        return Comparison(False, f"the answer is not worked out: {undone}")
    is_equal = bool(is_same_tree(trees[0], trees[1], _count_decimals(text)))
    return Comparison(is_equal, f"the values are {'' if is_equal else 'not '}equal")


def _is_same_infinite_set(label: str, answer: str) -> bool:
    """Whether two texts describe one set, as an inequality, intervals or `\\mathbb{R}`."""
    from sympy import FiniteSet, Set

    sets = []
    for text in (label, answer):
        if not _SET_NOTATION.search(text):
            return False
        tree = getattr(read_expression(text), "tree", None)
        solutions = find_solutions(tree) if tree is not None and is_relation(tree) else tree
        if not isinstance(solutions, Set) or isinstance(solutions, FiniteSet):
            return False
        sets.append(solutions)
    return _is_same_set(*sets)


def _is_same_set(label: Any, answer: Any) -> bool:
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


def _reduce_ratio(text: str) -> list[int]:
    terms = [int(term) for term in text.split(":")]
    divisor = gcd(*terms) or 1
    return [term // divisor for term in terms]


def _get_base(based: re.Match[str]) -> str:
    return str(based[2] or based[3])


def _read_clock(text: str) -> tuple[int, int, str] | None:
    """Returns hour, minute, and "a", "p" or "" (am, pm, neither) of a time of day."""
    match = _CLOCK.fullmatch(text) or _CLOCK_HOUR.fullmatch(text)
    return (int(match[1]), int(match[2] or 0), (match[3] or "").lower()) if match else None


def _is_same_clock(label: tuple[int, int, str], answer: tuple[int, int, str]) -> bool:
    if label[2] and answer[2]:
        return label == answer
    if label[:2] == answer[:2]:
        return True  # one of them has no a.m. or p.m. (math-clock_times-007)
    on_24_hours = [  # 4:30 p.m. is 16:30 (math-clock_times-006)
        (hour % 12 + (12 if half == "p" else 0) if half else hour, minute)
        for hour, minute, half in (label, answer)
    ]
    return on_24_hours[0] == on_24_hours[1]


def _is_or_not(is_equal: bool) -> str:
    return "is" if is_equal else "is not"


def _say_or_not(is_equal: bool) -> str:
    return "say" if is_equal else "do not say"


def warm_up() -> None:
    """Compares a pair of each common form, so that the parser and sympy have filled their caches.

    The first expression of a kind takes the parser up to a hundred times as long as the second.
    """
    for label, answer in _COMMON_FORMS:
        compare_answers(label, answer)
