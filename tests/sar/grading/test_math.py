"""The math grader: another notation never changes a verdict, another number always does."""

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sar.grading.rules.math import grade_math
from sar.grading.rules.quantities import is_same_quantity, read_quantity
from sar.grading.verdict import Reason

NUMBERS = st.integers(min_value=-10_000_000, max_value=10_000_000)
STATEMENTS = [
    "\\boxed{{{}}}",
    "#### {}",
    "Answer: {}",
    "**Answer:** {}",
    "**Final answer: {}**",
    "The answer is {}.",
    "<answer>{}</answer>",
    "So the answer is $\\boxed{{{}}}$.",
    "Therefore, the total is {}",
    "### Answer\n\n{}",
]


def notations(number: int) -> list[str]:
    """Ways to write one whole number."""
    ways = [f"{number}", f"{number}.00", f"{number:,}", f"${number}$", f"\\text{{{number}}}"]
    ways += [f"{number:,}".replace(",", "{,}"), f"{number:,}".replace(",", "\\,")]
    ways += [f"{number}".replace("-", "−"), f"\\frac{{{number * 3}}}{{3}}", f"{number} apples"]
    if number >= 0:
        ways += [f"${number:,}", f"\\${number}", f"{number} cm", f"{number}\\text{{ cm}}"]
    return ways


@given(number=NUMBERS, pick=st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_any_notation_in_any_statement_is_the_number(number: int, pick: random.Random) -> None:
    label = pick.choice([str(number), f"{number:,}", f"{number}.0"])
    response = (
        f"First 12 and then 7.\n{pick.choice(STATEMENTS).format(pick.choice(notations(number)))}"
    )
    assert grade_math(response, label).reason is Reason.CORRECT, (response, label)


@given(number=NUMBERS, other=NUMBERS, pick=st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_another_number_is_wrong_however_it_is_written(
    number: int, other: int, pick: random.Random
) -> None:
    if number == other:
        other += 1
    # The right number is in the calculation, where it must not count.
    response = (
        f"We get {number} first.\n{pick.choice(STATEMENTS).format(pick.choice(notations(other)))}"
    )
    assert grade_math(response, str(number)).reason is Reason.WRONG, (response, number)


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=200))
@settings(max_examples=200)
def test_fractions_are_exact_in_every_spelling(value: Fraction) -> None:
    num, den = value.numerator, value.denominator
    spellings = [f"{num}/{den}", f"\\frac{{{num}}}{{{den}}}", f"\\dfrac{{{num}}}{{{den}}}"]
    if value > 1 and den > 1:
        whole, rest = divmod(num, den)
        spellings += [f"{whole} {rest}/{den}", f"{whole}\\frac{{{rest}}}{{{den}}}"]
    for spelling in spellings:
        assert grade_math(f"\\boxed{{{spelling}}}", f"{num}/{den}").correctness, spelling
        assert not grade_math(f"\\boxed{{{spelling}}}", f"{num + 1}/{den}").correctness, spelling


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 1/2", Fraction(5, 2)),
        ("3 1/3 hours", Fraction(10, 3)),
        ("7 \\times 10^4", 70000),
        ("7 \\times 10^{-2}", Fraction(7, 100)),
        ("1.5e3", 1500),
        ("$ 1,234.50", Fraction(123450, 100)),
        ("3.5 million", 3_500_000),
        ("0.\\overline{3}", Fraction(1, 3)),
        ("118 000", 118_000),
    ],
)
def test_reads_numbers_exactly(text: str, value: Fraction | int) -> None:
    quantity = read_quantity(text)
    assert quantity is not None
    assert quantity.value == value


@pytest.mark.parametrize("text", ["5x", "5 or 6", "5, 6", "2\\pi", "3i", "x", "", "1/0", "5!", "-"])
def test_an_expression_is_no_plain_number(text: str) -> None:
    assert read_quantity(text) is None


def test_number_reading_is_linear_in_hostile_text() -> None:
    for text in ("1" * 10**6, "1," * 10**5, "5 " + "a " * 10**5, "-" * 10**5, " " * 10**5):
        assert read_quantity(text) is None


@pytest.mark.parametrize(
    ("label", "answer", "same"),
    [
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("0.35", "0.35%", False),
        ("5 cm", "5 m", False),
        ("0.50 dollars", "50 cents", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.33", False),
        ("0.0000001", "0.0000002", False),
    ],
)
def test_quantities_compare_with_their_marks(label: str, answer: str, same: bool) -> None:
    quantities = read_quantity(label), read_quantity(answer)
    assert quantities[0] is not None
    assert quantities[1] is not None
    assert is_same_quantity(quantities[0], quantities[1]) is same


@pytest.mark.parametrize(
    ("label", "answer", "correct"),
    [
        ("1-\\frac{1}{e}", "1+\\frac{1}{e}", False),
        ("2021", "\\pm 2021", False),
        ("\\pm 2021", "2021, -2021", True),
        ("x^2+y^2=1", "x^2+y^2=4", False),
        ("x+y=2", "2x+2y=4", True),
        ("[2,3)", "(2,3)", False),
        ("[2,3)", "2 \\le x < 3", True),
        ("0.001", "10^{-3}", True),
        ("\\frac{\\sqrt{2}}{10}", "0.1\\sqrt{2}", True),
        ("0.3x", "0.1x + 0.2x", True),
        ("x \\leqslant 3", "x \\leq 3", True),
        ("[3, \\infty)", "x \\geqslant 3", True),
        ("(1,2)", "(2,1)", False),
        ("\\{1,2\\}", "\\{2,1\\}", True),
        ("(-\\infty,2)\\cup(3,\\infty)", "x<2 \\text{ or } x>3", True),
        ("6\\sqrt{2}", "\\sqrt{72}", True),
        ("x^2+2x+1", "(x+1)^2", True),
        ("x^2+2x+1", "(x-1)^2", False),
        ("080 or 081 (both were accepted)", "81", True),
        ("080 or 081 (both were accepted)", "82", False),
        ("035", "35", True),
        ("1011_2", "1011_3", False),
        ("3:4", "6:8", True),
        ("4:30 p.m.", "16:30", True),
        ("4:30 p.m.", "4:30 a.m.", False),
        (
            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            True,
        ),
        (
            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}",
            False,
        ),
    ],
)
def test_structure_signs_and_forms_count(label: str, answer: str, correct: bool) -> None:
    assert bool(grade_math(f"So it is $\\boxed{{{answer}}}$.", label).correctness) is correct


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("It is \\boxed{4}. Wait, no: \\boxed{5}", Reason.CORRECT),
        ("The number is 10 and then\n#### 5", Reason.CORRECT),
        ("10 apples <answer>5</answer>", Reason.CORRECT),
        ("<answer>5", Reason.CORRECT),
        ("\\boxed{}", Reason.NO_ANSWER),
        ("I do not know.", Reason.NO_ANSWER),
        ("The answer is 5 or 6.", Reason.WRONG),
        ("The answer is 5. I checked it in 3 ways.", Reason.CORRECT),
    ],
)
def test_the_last_stated_answer_counts(response: str, reason: Reason) -> None:
    assert grade_math(response, "5").reason is reason


def test_a_worked_solution_as_label_gives_its_answer() -> None:
    assert grade_math("Answer: 72", "48/2 = 24\n48+24 = 72\n#### 72").correctness
    assert grade_math("Answer: 72", "It is $\\boxed{72}$.").correctness
    assert not grade_math("Answer: 24", "48/2 = 24\n48+24 = 72\n#### 72").correctness


def test_an_unreadable_label_is_compared_as_text_and_says_so() -> None:
    verdict = grade_math("\\boxed{\\frac{1}{}+}", "\\frac{1}{}+")
    assert verdict.correctness == 1
    assert verdict.label_unreadable
    assert grade_math("\\boxed{7}", "\\frac{1}{}+").label_unreadable


def test_seeded_shuffles_of_a_set_are_equal() -> None:
    rng = random.Random(0)
    for _ in range(50):
        items = [str(rng.randint(-20, 20)) for _ in range(4)]
        shuffled = rng.sample(items, len(items))
        assert grade_math(f"\\boxed{{{', '.join(shuffled)}}}", ", ".join(items)).correctness


@pytest.mark.parametrize(
    ("label", "answer"),
    [
        ("2x+3y-5=0", "0"),  # the right side of an equation is not the equation
        ("x^2+y^2=25", "25"),
        ("204", "0≈1≈2≈3≈204"),  # a chain of guesses
        ("3/4", "\\frac12\\approx\\frac34"),
        ("x=5", "2x+1=11"),  # the question, not its solution
        ("x=5", "3x-15=0"),
        ("2^{100}-1", "2^{100}"),  # differ by less than a double can represent
        ("1267650600228229401496703205375", "2^{100}"),
        ("\\{x \\mid x > 1\\}", "1"),  # math-verify reads only a part of it
        ("n \\equiv 1 \\pmod{4}", "1"),
        ("5", "\\neg 5"),
        ("6", "2+4"),  # not worked out
        ("6", "12 \\div 2"),
        ("1500", "1500.01"),  # not a rounding
        ("1/4", "0.250001"),
        ("2 1/2", "21/2"),
        ("1:10", "1:100"),
        ("4:30 p.m.", "4:30, 5:30"),
        ("5", "5\\text{ times }2"),
        ("21", "21_5"),
        ("f'(x)", "f(x)"),
        ("5", "5, 6, 7"),
        ("5", "\\pm 5"),
        ("5", "[0, 10]"),
        ("5", "x"),
        ("5", "\\text{NaN}"),
        ("5", "\\infty"),
    ],
)
def test_what_a_policy_could_learn_to_write_instead_earns_nothing(label: str, answer: str) -> None:
    assert not grade_math(f"\\boxed{{{answer}}}", label).correctness


@pytest.mark.parametrize(
    "response",
    ["Thus, 25 people came, not 24.", "The answer is not 24.", "It is 25 rather than 24."],
)
def test_a_denied_number_is_not_the_answer(response: str) -> None:
    assert not grade_math(response, "24").correctness


def test_a_shortened_verb_before_the_answer_is_a_word() -> None:
    assert grade_math("It's 1,000.", "1000").correctness


def test_money_in_prose_is_no_formula() -> None:
    assert grade_math("So Lloyd makes 147 x $2 = $294 on eggs.", "294").correctness


def test_a_worked_answer_block_ends_with_its_answer() -> None:
    block = "She sells 16 - 3 - 4 = 9 eggs a day.\nShe makes 9 * 2 = $18 every day.\n"
    assert grade_math(f"<answer>\n{block}</answer>", "18").correctness
    assert not grade_math(f"<answer>\n{block}</answer>", "9").correctness


@pytest.mark.parametrize(
    "response",
    [
        "Each friend gets 18 / 3",
        "Each friend gets 18/3 apples.",
        "He has 36 - 18 = 18 apples. Each friend gets 18 ÷ 3",
        "18/3",
    ],
)
def test_a_text_that_ends_in_a_division_has_no_result(response: str) -> None:
    """A response that was cut off before its last result was right."""
    verdict = grade_math(response, "6")
    assert verdict.reason is Reason.WRONG
    assert "ends in a division" in verdict.rule


@pytest.mark.parametrize("response", ["One part is 7 / 4 =", "So $x = 1.75 =$", "It is 1.75 = "])
def test_a_text_that_ends_in_an_open_equation_has_no_result(response: str) -> None:
    verdict = grade_math(response, "1.75")
    assert verdict.reason is Reason.WRONG
    assert "ends in an open equation" in verdict.rule


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("Each friend gets 18 / 3 = 6", "6"),
        ("Answer: 18 / 3", "6"),
        ("So it is $$18/3$$", "6"),
        ("The share is 6/4", "\\frac{3}{2}"),
        ("The share is 6/3", "6/3"),
        ("The share is 1 / 2.", "0.5"),
        ("He drives at 60 km/h", "60"),
    ],
)
def test_a_stated_quotient_and_a_fraction_are_answers(response: str, label: str) -> None:
    assert grade_math(response, label).correctness
