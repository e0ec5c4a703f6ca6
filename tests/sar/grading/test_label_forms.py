"""Labels as data sets write them: each form given back in any common way is right, and no other is.

Hypothesis writes the numbers. Each form gives a label, answers that equal it, and answers in which
one digit, sign, bracket or element is another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sar.grading.rules.math import grade_math

# How a response states an answer in LaTeX.
STATEMENTS = {
    "boxed": "So we get $\\boxed{%s}$.",
    "boxed display": "Therefore\n\\[\n\\boxed{%s}.\n\\]",
    "answer line": "We add both sides.\n\nAnswer: $%s$",
    "prose": "The answer is $%s$.",
    "display": "Hence the result is\n$$%s$$",
    "tag": "<answer>$%s$</answer>",
}


@dataclass(frozen=True)
class Form:
    """One label, and what equals it and what does not."""

    label: str
    right: list[str]
    wrong: list[str]


def write_thousands(a: int, b: int, c: int) -> Form:
    number = 1000 * (a + 10) + b % 1000
    head, tail = f"{number:,}".split(",", maxsplit=1)
    labels = [
        rf"{head},\!{tail}",
        rf"{head},\! {tail}",
        rf"\${head},\!{tail}",
        f"{head}{{,}}{tail}",
    ]
    right = [str(number), f"{number:,}", f"\\${number:,}", rf"{head}\,{tail}", *labels[:2]]
    return Form(labels[c % 4], right, [str(number + 1), f"-{number}", f"{head}, {tail}, 1", tail])


def write_short_fraction(a: int, b: int, c: int) -> Form:
    top, bottom = a % 9 + 1, b % 8 + 2
    value = Fraction(top, bottom)
    right = [
        rf"\frac{{{top}}}{{{bottom}}}",
        f"{top}/{bottom}",
        rf"\frac{{{2 * top}}}{{{2 * bottom}}}",
    ]
    wrong = [rf"-\frac{top}{bottom}", rf"\frac{{{bottom + top}}}{{{top}}}", str(value + 1)]
    return Form(rf"\frac{top}{bottom}", right, wrong)


def write_decimal(a: int, b: int, c: int) -> Form:
    digits = a % 98 + 1
    value = Fraction(digits, 100)
    right = [f"0.{digits:02d}", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"]
    return Form(f".{digits:02d}", right, [f"-.{digits:02d}", f".0{digits:02d}", f"{digits}.1"])


def write_degrees(a: int, b: int, c: int) -> Form:
    angle = a % 180 + 1
    right = [str(angle), rf"{angle}^{{\circ}}", rf"{angle}\text{{ degrees}}", f"{angle}°"]
    return Form(rf"{angle}^\circ", right, [rf"{angle + 1}^\circ", rf"-{angle}^\circ"])


def write_interval(a: int, b: int, c: int) -> Form:
    low, high = a - 20, a - 20 + b % 30 + 1
    right = [f"[{low},{high})", rf"{low} \le x < {high}", rf"x \in [{low}, {high})"]
    right += [rf"\left[{low},{high}\right)", rf"{high} > x \geq {low}"]
    wrong = [f"[{low},{high}]", f"({low},{high})", f"[{low},{high + 1})", f"{low},{high}"]
    return Form(rf"x \in [{low},{high})", right, [*wrong, rf"{low} < x < {high}"])


def write_matrix(a: int, b: int, c: int) -> Form:
    body = rf"{a} & {b} \\ {c} & {a + b + 1}"
    changed = rf"{a} & {b} \\ {c} & {a + b + 2}"
    right = [rf"\begin{{{kind}}}{body}\end{{{kind}}}" for kind in ("pmatrix", "bmatrix")]
    right.append(rf"\left(\begin{{array}}{{cc}}{body}\end{{array}}\right)")
    right.append(
        rf"\begin{{bmatrix}}\frac{{{2 * a}}}{{2}} & {b} \\ {c} & {a + b + 1}\end{{bmatrix}}"
    )
    wrong = [
        rf"\begin{{pmatrix}}{changed}\end{{pmatrix}}",
        rf"\begin{{vmatrix}}{body}\end{{vmatrix}}",
    ]
    wrong.append(rf"\begin{{pmatrix}}{a} & {b} & {c} & {a + b + 1}\end{{pmatrix}}")
    return Form(rf"\begin{{pmatrix}}{body}\end{{pmatrix}}", right, wrong)


def write_pairs(a: int, b: int, c: int) -> Form:
    b += a + 1
    right = [f"({b},{a}),({a},{b})", rf"({a},{b}) \text{{ and }} ({b},{a})"]
    right.append(rf"\{{({a},{b}), ({b},{a})\}}")
    return Form(
        f"({b},{a})or({a},{b})", right, [f"({a},{b})", f"({a},{b}),({b},{a + 1})", f"{a},{b}"]
    )


def write_roots(a: int, b: int, c: int) -> Form:
    b += a + 1
    right = [
        f"{b}, {a}",
        rf"x={a} \text{{ or }} x={b}",
        rf"\{{{a}, {b}\}}",
        f"x_1 = {a}, x_2 = {b}",
    ]
    wrong = [f"{a}", f"{a}, {b + 1}", f"{a}, {b}, {b + 1}", f"-{a + 1}, {b}"]
    return Form(f"x_{{1}}={a}, x_{{2}}={b}", right, wrong)


def write_ratio(a: int, b: int, c: int) -> Form:
    right = [f"{a + 1}:{b + 1}", f"{2 * a + 2}:{2 * b + 2}", f"S:T={a + 1}:{b + 1}"]
    return Form(
        f"S:T={a + 1}:{b + 1}", right, [f"{a + 2}:{b + 1}", f"{a + 1}:{b + 2}", f"S = {a + 1}"]
    )


def write_named(a: int, b: int, c: int) -> Form:
    b += a + 1
    right = [f"n = {b}, k = {a}", f"k={a},n={b}", f"({a}, {b})", rf"k={a} \text{{ and }} n={b}"]
    right.append(f"(k, n) = ({a}, {b})")
    wrong = [f"k = {b}, n = {a}", f"({b}, {a})", f"k = {a}", f"(n, k) = ({a}, {b})"]
    return Form(f"k = {a}, n = {b}", right, wrong)


def write_plus_minus(a: int, b: int, c: int) -> Form:
    a += 1
    right = [f"{a}, -{a}", f"-{a}, {a}", rf"\pm {a}", rf"\{{-{a}, {a}\}}", rf"x = \pm {a}"]
    return Form(rf"\pm {a}", right, [f"{a}", f"-{a}", f"{a}, -{a + 1}", rf"\pm {a + 1}"])


def write_scientific(a: int, b: int, c: int) -> Form:
    mantissa, exponent = a % 9 + 1, b % 12 + 2
    right = [rf"{mantissa} \times 10^{{-{exponent}}}", f"0.{'0' * (exponent - 1)}{mantissa}"]
    right.append(rf"{mantissa} \cdot 10^{{-{exponent}}}")
    wrong = [rf"{mantissa} \times 10^{{-{exponent + 1}}}", rf"{mantissa} \times 10^{{{exponent}}}"]
    return Form(f"{mantissa}e-{exponent}", right, [*wrong, f"-{mantissa}e-{exponent}"])


def write_bare_point(a: int, b: int, c: int) -> Form:
    a = 2 * a + 1
    right = [rf"-\frac{{{a}}}{{2}}", f"-{a / 2}", rf"\frac{{-{a}}}{{2}}"]
    return Form(f"-{a}./2", right, [f"{a}/2", f"-{a + 2}/2", f"-{a}/20"])


def write_differential_equation(a: int, b: int, c: int) -> Form:
    a, b = a + 1, b + 1
    right = [f"y'' = -{a}y' - {b}y", f"2y'' + {2 * a}y' + {2 * b}y = 0"]
    right.append(rf"\frac{{d^2y}}{{dx^2}} + {a}\frac{{dy}}{{dx}} + {b}y = 0")
    right.append(rf"\ddot{{y}} + {a}\dot{{y}} = -{b}y")
    wrong = [f"y'' - {a}y' + {b}y = 0", f"y'' + {a}y' + {b + 1}y = 0", f"y' + {a}y' + {b}y = 0"]
    return Form(f"y'' + {a}y' + {b}y = 0", right, [*wrong, "0"])


def write_complex(a: int, b: int, c: int) -> Form:
    a, b, c = a + 1, b + 1, c + 2
    right = [rf"\frac{{{a}}}{{{c}}} + \frac{{{b}}}{{{c}}}i", rf"\frac{{{b}i + {a}}}{{{c}}}"]
    wrong = [
        rf"\frac{{{a} - {b}i}}{{{c}}}",
        rf"\frac{{{a} + {b + 1}i}}{{{c}}}",
        rf"\frac{{{a}}}{{{c}}}",
    ]
    return Form(rf"\frac{{{a}+{b}i}}{{{c}}}", right, wrong)


def write_units(a: int, b: int, c: int) -> Form:
    a += 1
    right = [
        f"{a}",
        rf"{a}\text{{ cm}}^2",
        rf"{a}\ \mathrm{{cm}}^2",
        rf"{a} \text{{ square centimeters}}",
    ]
    wrong = [rf"{a}\text{{ cm}}^3", rf"{a + 1} \text{{ cm}}^2", rf"{a} \text{{ m}}^2"]
    return Form(rf"{a} \text{{ cm}}^2", right, wrong)


def write_function(a: int, b: int, c: int) -> Form:
    a += 2
    right = [rf"{a}\tan(x)", f"{a}tan(x)", rf"{a} \tan x", rf"\frac{{{a}\sin x}}{{\cos x}}"]
    wrong = [rf"{a}\tan y", rf"{a + 1}\tan x", rf"-{a}\tan x", rf"{a}\cot x", rf"\tan {a}x"]
    return Form(rf"{a}\tan x", right, wrong)


def write_root(a: int, b: int, c: int) -> Form:
    a += 2
    label = rf"{a}\sqrt{{7}}+{b + 1}"
    right = [rf"{b + 1} + {a}\sqrt7", rf"\sqrt{{{7 * a * a}}}+{b + 1}", rf"{a}\sqrt{{7}} + {b + 1}"]
    wrong = [rf"{a}\sqrt{{7}}-{b + 1}", rf"{a}\sqrt{{5}}+{b + 1}", rf"{a + 1}\sqrt{{7}}+{b + 1}"]
    return Form(label, right, wrong)


def write_polynomial(a: int, b: int, c: int) -> Form:
    b += a + 1
    label = f"x^2+{a + b}x+{a * b}"
    right = [f"(x+{a})(x+{b})", f"x^{{2}} + {a + b} x + {a * b}", f"{a * b}+{a + b}x+x^2"]
    return Form(
        label, right, [f"(x-{a + 1})(x+{b})", f"(x+{a})(x+{b + 1})", f"x^2+{a + b}x-{a * b + 1}"]
    )


def write_line(a: int, b: int, c: int) -> Form:
    a, b = a + 2, b + 1
    right = [f"{a}x - y + {b} = 0", f"y - {b} = {a}x", f"2y = {2 * a}x + {2 * b}", f"{a}x+{b} = y"]
    wrong = [f"y = {a}x - {b}", f"y = {a + 1}x + {b}", f"x = {a}y + {b}", f"{a}x - y = {b}"]
    return Form(f"y = {a}x + {b}", right, wrong)


def write_inequality(a: int, b: int, c: int) -> Form:
    right = [
        rf"(-\infty, {a}]",
        rf"-x \ge -{a}",
        rf"{a} \geq x",
        rf"x \in (-\infty, {a}]",
    ]
    wrong = [f"x < {a}", rf"x \ge {a}", rf"(-\infty, {a})", rf"x \le {a + 1}", f"{a + 1}"]
    return Form(rf"x \le {a}", right, wrong)


def write_in_dollars(a: int, b: int, c: int) -> Form:
    form = write_short_fraction(a, b, c)
    return Form(f"${form.label}$", form.right, form.wrong)


FORMS: list[Callable[[int, int, int], Form]] = [
    write_thousands,
    write_short_fraction,
    write_decimal,
    write_degrees,
    write_interval,
    write_matrix,
    write_pairs,
    write_roots,
    write_ratio,
    write_named,
    write_plus_minus,
    write_scientific,
    write_bare_point,
    write_differential_equation,
    write_complex,
    write_units,
    write_function,
    write_root,
    write_polynomial,
    write_line,
    write_inequality,
    write_in_dollars,
]
NUMBERS = st.integers(min_value=0, max_value=60)


@pytest.mark.parametrize("write", FORMS, ids=lambda write: write.__name__.removeprefix("write_"))
@given(a=NUMBERS, b=NUMBERS, c=NUMBERS, statement=st.sampled_from(list(STATEMENTS.values())))
@settings(max_examples=12)
def test_a_label_equals_its_other_forms_and_nothing_else(
    write: Callable[[int, int, int], Form], a: int, b: int, c: int, statement: str
) -> None:
    form = write(a, b, c)
    for answer in [form.label, *form.right]:
        verdict = grade_math(statement % answer.strip("$"), form.label)
        assert verdict.correctness, (form.label, statement % answer, verdict)
        assert not verdict.label_unreadable, form.label
    for answer in form.wrong:
        verdict = grade_math(statement % answer, form.label)
        assert not verdict.correctness, (form.label, statement % answer, verdict)
