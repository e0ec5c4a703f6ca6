"""Finds the arithmetic that an answer leaves to the grader: `2+3`, `\\gcd(4, 6)`, `\\log_2 8`.

A policy that need not compute learns not to. So an answer to a numeric label must be a number as
people write one, and it may only use functions that the label uses too. It is judged on the parsed
expression, not on its text. Runs only in a grader process.
"""

from __future__ import annotations

from typing import Any

from sar.grading.rules.expressions import Expression

# What the parser computes, and people write as a number.
_NUMBERS = frozenset({"binomial"})
_BINOMIALS = "calculation with binomials"
# Numbers with more binary digits are not computed.
_MAX_BITS = 2**20


def find_unfinished(label: Expression, answer: Expression) -> str:
    """Returns the name of an operation that an answer has left undone, or an empty string."""
    from sympy import Derivative, Integral, Limit, Max, Min, Mod, Product, Sum

    new = answer.computed - label.computed - _NUMBERS
    if label.symbols:
        new -= {_BINOMIALS}
    if not label.tree.is_Integer:
        new -= {"ratio"}
    if not _is_rational(label.tree):
        new -= {"power of e"}
    if new:
        return min(new)
    undone = (Sum, Product, Integral, Limit, Derivative, Max, Min, Mod)
    for operation in undone:
        if answer.tree.has(operation) and not label.tree.has(operation):
            return str(operation.__name__).lower()
    if label.symbols or not getattr(label.tree, "is_number", False):
        return ""
    if functions := _name_functions(answer.tree) - _name_functions(label.tree):
        return min(functions)
    if label.computed or is_too_large(label.tree) or is_unfinished_number(label.tree):
        return ""  # `\\binom{12}{5}` and `2^{2015}` may be written in other ways too
    if label.tree.doit().is_Rational:
        return "" if is_rational_form(answer.tree) else "a calculation"
    return _find_sum_or_product(answer.tree)


def is_unfinished_number(tree: Any) -> bool:
    """Whether a label is a rational number that is not worked out itself, such as `2^{10}`."""
    return not _is_fraction(tree) and bool(tree.doit().is_Rational)


def has_finished_ends(solutions: Any) -> bool:
    """Whether the ends of a set's intervals and its elements are worked out: not `(1+1, 5)`."""
    from sympy import FiniteSet, Interval

    ends = [end for part in solutions.atoms(Interval) for end in (part.start, part.end)]
    ends += [element for part in solutions.atoms(FiniteSet) for element in part.args]
    return all(map(is_finished, ends))


def is_finished(tree: Any) -> bool:
    """Whether a number is worked out; what is no number is, too."""
    if not getattr(tree, "is_number", False) or not tree.is_finite:
        return True
    if tree.doit().is_Rational:
        return is_rational_form(tree)
    return not _find_sum_or_product(tree)


def _is_rational(tree: Any) -> bool:
    return bool(getattr(tree, "is_number", False) and tree.is_rational)


def is_rational_form(tree: Any) -> bool:
    """Whether a tree is one rational number as people write it: `5`, `2/3`, `2^{10}`, `7 * 10^4`.

    A power, root or factorial of a rational number counts as a number. Sums and products do not,
    except a product with a power of ten.
    """
    from sympy import Mul

    if _is_fraction(tree) or _is_short_form(tree):
        return True
    if not isinstance(tree, Mul):
        return False
    factors = [f for f in tree.args if f != -1]
    if len(factors) == 1:
        return is_rational_form(factors[0])
    if len(factors) != 2:
        return False
    tens = [f for f in factors if f.is_Pow and f.args[0] == 10 and f.args[1].is_Rational]
    if tens and not all(map(_is_reciprocal, tens)):
        return any(f.is_Rational for f in factors)
    top, bottom = sorted(factors, key=_is_reciprocal)
    # `\\frac{3}{2^{10}}`
    return _is_fraction(top) and _is_reciprocal(bottom) and bool(bottom.args[0].is_Pow)


def _is_fraction(tree: Any) -> bool:
    """Whether a tree is a rational number, or a fraction of two such: `\\frac{3/2}{2}`."""
    if tree.is_Rational:
        return True
    if not tree.is_Mul or len(tree.args) != 2:
        return False
    top, bottom = sorted(tree.args, key=_is_reciprocal)
    if not _is_reciprocal(bottom) or _is_reciprocal(top):
        return False
    return _is_fraction(top) and _is_fraction(bottom.args[0])


def _is_short_form(tree: Any) -> bool:
    """Whether a tree is a power, root or factorial of a rational number."""
    from sympy import factorial

    if isinstance(tree, factorial):
        return bool(tree.args[0].is_Integer)
    return bool(tree.is_Pow) and tree.args[0] != 0 and all(map(_is_fraction, tree.args))


def is_too_large(tree: Any) -> bool:
    """Whether computing a number would take more than about a million binary digits."""
    return _count_bits(tree) > _MAX_BITS


def _count_bits(tree: Any) -> float:
    """Returns an upper bound on the binary digits of the numbers in an expression."""
    from sympy import MatrixBase, Pow, Rational, exp, factorial

    if isinstance(tree, MatrixBase):
        return max(map(_count_bits, tree.flat()))
    if isinstance(tree, Rational):
        return float(max(abs(int(tree.p)).bit_length(), int(tree.q).bit_length()))
    bits = [_count_bits(part) for part in tree.args]
    if isinstance(tree, exp) and tree.args[0].is_number:
        return bits[0] if bits[0] > _MAX_BITS else max(bits[0], 2 * _estimate_size(tree.args[0]))
    if isinstance(tree, Pow) and tree.args[1].is_number:
        if bits[1] > _MAX_BITS:
            return float("inf")
        return bits[0] * max(1.0, _estimate_size(tree.args[1]))
    if isinstance(tree, factorial):
        return float(2.0 ** min(bits[0], 64) * bits[0])
    return sum(bits, 1.0)


def _estimate_size(number: Any) -> float:
    """Returns a number's absolute value, roughly; infinity for one that is no number."""
    try:
        return float(abs(number.evalf(5)))
    except (TypeError, ValueError, OverflowError):
        return float("inf")


def _name_functions(tree: Any) -> set[str]:
    """Returns the functions that a tree applies; e^x counts as exp, and log has no base."""
    from sympy import Abs, I, cos, factorial, sin
    from sympy.core.function import Function

    functions = tree.atoms(Function) if hasattr(tree, "atoms") else ()
    if tree.has(I):  # `e^{i x}` is `\\cos x + i \\sin x`
        functions = [f for f in functions if not isinstance(f, (cos, sin))]
    return {
        "absolute value" if isinstance(f, Abs) else type(f).__name__
        for f in functions
        if not isinstance(f, factorial) and type(f).__name__ != "exp"
    }


def _find_sum_or_product(tree: Any) -> str:
    """Names a sum of like terms, a product of numbers or a power of a sum in a number's tree."""
    from sympy import Add, I, Mul, Pow, preorder_traversal

    for node in preorder_traversal(tree):
        if isinstance(node, Add) and _has_like_terms(node):
            return "sum"
        if isinstance(node, Mul):
            numbers = [f for f in node.args if _is_factor(f)]
            if len(numbers) > 1:
                return "product"
        is_power = isinstance(node, Pow) and node.args[1].is_Integer
        if is_power and abs(node.args[1]) > 1 and node.args[0].has(I):
            return "power of a complex number"
    return ""


def _is_factor(tree: Any) -> bool:
    """Whether a factor is a rational number, or a whole power of one, and not 1 or 1/n."""
    if tree.is_Rational:
        return bool(abs(tree) != 1)
    return bool(
        tree.is_Pow and tree.args[1].is_Integer and tree.args[1] > 0 and tree.args[0].is_Rational
    )


def _has_like_terms(total: Any) -> bool:
    """Whether two terms differ only in a rational factor: `1 + 2`, `\\sqrt2 + 3\\sqrt2`."""
    kinds = []
    for term in total.args:
        evaluated = term.doit() if not is_too_large(term) else term
        kinds.append(evaluated.as_coeff_Mul(rational=True)[1])
    return len(set(kinds)) < len(kinds)


def _is_reciprocal(tree: Any) -> bool:
    return bool(tree.is_Pow and tree.args[1] == -1)
