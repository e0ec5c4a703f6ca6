"""Labels: how they are parsed, and which ones are errors."""

from __future__ import annotations

import json
import string
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.grading.label import Label, LabelError, choose_grader, parse_label


@pytest.mark.parametrize(
    "answer",
    [
        "42",
        "-3.5",
        "1,234",
        "\\frac{1}{2}",
        "3/4",
        "x^2 + 1",
        "\\boxed{7}",
        "$5$",
        "10 apples",
        "x=3",
        "√2",
        "π",
        "sin(x)",
        "{1, 2}",
        "(1, 2]",
        "50%",
        "x",
        "\\text{odd}",
    ],
)
def test_plain_numbers_and_formulas_are_mathematics(answer: str) -> None:
    assert parse_label(answer) == Label(answer, "math", "train", ())


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("A", "A"), ("(B)", "B"), (" C. ", "C"), ("\\text{D}", "D"), ("[E]", "E"), ("**B**", "B")],
)
def test_plain_letters_are_choices(answer: str, letter: str) -> None:
    assert parse_label(answer) == Label(letter, "choice")


# MMLU-Pro has the options A to J. A bare letter after J, or in lower case, is mathematics.
@pytest.mark.parametrize("letter", "ABCDEFGHIJ")
def test_a_bare_upper_case_letter_to_j_is_a_choice(letter: str) -> None:
    assert parse_label(letter) == Label(letter, "choice")


@pytest.mark.parametrize("letter", [*"abcijnxKNRXZ", "$c$", "$N$", "{x}", r"\mathrm{e}", "(1)"])
def test_other_bare_letters_are_mathematics(letter: str) -> None:
    assert parse_label(letter) == Label(letter, "math")


FORMS = [
    "{}", "({})", "[{}]", "{}.", "({}).", "{})", "{}:", "**{}**", "*({})*", '"{}"', "`{}`", "${}$",
    "$({})$", "\\({}\\)", "\\text{{{}}}", "\\text{{({})}}", "$\\text{{({})}}$", "\\textbf{{({}) }}",
    "\\mathrm{{({})}}", "\\boxed{{{}}}", "\\boxed{{\\text{{({})}}}}", "option {}", "Option ({})",
    "Answer: {}", "({}) Paris", "{}. Paris", " {}\n", "（{}）",
]  # fmt: skip
BARE_FORMS = ("{}", "${}$", "\\({}\\)", "\\boxed{{{}}}", " {}\n")


@given(st.sampled_from(string.ascii_letters), st.sampled_from(FORMS))
def test_any_letter_in_any_form_is_a_label_of_the_choice_grader(letter: str, form: str) -> None:
    answer = form.format(letter)
    assert parse_label({"answer": answer, "grader": "choice"}) == Label(letter.upper(), "choice")
    assert parse_label(answer, "choice").answer == letter.upper()
    four = {"answer": answer, "choices": ["red", "blue", "Rome", "Oslo"]}
    if letter.upper() in "ABCD":
        assert parse_label(four).answer == letter.upper()
    else:
        with pytest.raises(LabelError, match="is not a letter A-D"):
            parse_label(four)


@given(st.sampled_from(string.ascii_letters), st.sampled_from(FORMS))
def test_a_form_that_only_options_have_is_a_choice(letter: str, form: str) -> None:
    if form not in BARE_FORMS and "Paris" not in form:
        assert parse_label(form.format(letter)) == Label(letter.upper(), "choice")


def test_an_upper_case_letter_is_a_letter_before_it_is_an_options_text() -> None:
    assert parse_label({"answer": "A", "choices": ["C", "A"]}).answer == "A"
    assert parse_label({"answer": "a", "choices": ["c", "a"]}).answer == "B"
    assert parse_label({"answer": "Y", "choices": ["X", "Y"]}).answer == "B"


@pytest.mark.parametrize(
    ("answer", "truth"),
    [("T", "true"), ("f", "false"), ("1", "true"), ("0", "false"), ("N", "false")],
)
def test_short_truth_values_need_the_boolean_graders_name(answer: str, truth: str) -> None:
    assert parse_label({"answer": answer, "grader": "boolean"}).answer == truth
    assert parse_label(answer).grader != "boolean"


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("True", "true"),
        ("yes", "true"),
        ("NO", "false"),
        ("false.", "false"),
        ("\\text{Yes}", "true"),
        (" no\n", "false"),
    ],
)
def test_plain_truth_values_are_boolean(answer: str, truth: str) -> None:
    assert parse_label(answer) == Label(truth, "boolean")


@pytest.mark.parametrize("answer", ["Paris", "the blue one", "north-west", "not sure", "東京"])
def test_plain_words_are_compared_exactly(answer: str) -> None:
    assert parse_label(answer) == Label(answer, "exact")


def test_white_space_around_an_answer_is_removed() -> None:
    assert parse_label("  42\n").answer == "42"
    assert parse_label({"answer": "\t42 "}).answer == "42"


OBJECTS = [
    ({"answer": "7"}, Label("7", "math")),
    ({"answer": "7", "mode": "eval"}, Label("7", "math", "eval")),
    ({"answer": "7", "grader": "exact"}, Label("7", "exact")),
    ({"answer": "A", "grader": "math"}, Label("A", "math")),
    ({"answer": "yes", "grader": "boolean"}, Label("true", "boolean")),
    ({"answer": "yes", "grader": "exact"}, Label("yes", "exact")),
    ({"answer": "b", "choices": ["a", "b"]}, Label("B", "choice", "train", ("a", "b"))),
    ({"answer": "BLUE", "choices": ["r", " blue"]}, Label("B", "choice", choices=("r", " blue"))),
    ({"answer": "(A)", "choices": ["red", "blue"]}, Label("A", "choice", choices=("red", "blue"))),
    ({"answer": "G", "choices": list("tuvwxyz")}, Label("G", "choice", choices=tuple("tuvwxyz"))),
    ({"answer": "7", "grader": None, "mode": None, "choices": None}, Label("7", "math")),
    ({"answer": "7", "choices": []}, Label("7", "math")),
    ({"answer": "7", "target_tokens": 512}, Label("7", "math", target_tokens=512)),
    ({"answer": "7", "target_tokens": None}, Label("7", "math")),
]


@pytest.mark.parametrize(("value", "label"), OBJECTS)
def test_objects_and_their_json_text_mean_the_same(value: object, label: Label) -> None:
    assert parse_label(value) == label
    assert parse_label(json.dumps(value)) == label
    assert parse_label("\n " + json.dumps(value, indent=1)) == label


@pytest.mark.parametrize(
    "text",
    [
        "{1, 2}",
        "{}",
        "{x | x > 3}",
        "{1}",
        "{" * 5000,
        "{1, 2, 3} \\cup {4}",
    ],
)
def test_a_set_that_only_looks_like_json_is_an_answer(text: str) -> None:
    assert parse_label(text) == Label(text.strip(), "math")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'answer': '5', 'grader': 'math'}", "looks like a JSON object but is not"),
        ('{"answer": "5",}', "looks like a JSON object but is not"),
        ('{"answer": ' * 20000, "looks like a JSON object but is not"),
        (r'{"answer": "\frac{1}{2}"}', "two backslashes"),
        (r'{"answer": "x \neq 2"}', "two backslashes"),
    ],
)
def test_a_label_that_is_almost_json_is_an_error(text: str, message: str) -> None:
    """As an answer, it would make every response wrong without an error."""
    with pytest.raises(LabelError, match=message):
        parse_label(text)


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        (None, None, "not null"),
        (3, None, "not a number"),
        (3.5, None, "not a number"),
        (True, None, "not a boolean"),
        (["7"], None, "not a list"),
        ({}, "answer", "missing"),
        ({"grader": "math"}, "answer", "missing"),
        ({"answer": None}, "answer", "missing"),
        ({"answer": 7}, "answer", "a number"),
        ({"answer": True}, "answer", "a boolean"),
        ({"answer": ["7"]}, "answer", "a list"),
        ({"answer": {"x": 1}}, "answer", "must be a string"),
        ({"answer": ""}, "answer", "empty"),
        ({"answer": "7", "target_tokens": 0}, "target_tokens", "a whole number from 1 to"),
        ({"answer": "7", "target_tokens": -5}, "target_tokens", "not -5"),
        ({"answer": "7", "target_tokens": 5.0}, "target_tokens", "not 5.0"),
        ({"answer": "7", "target_tokens": True}, "target_tokens", "not True"),
        ({"answer": "7", "target_tokens": "5"}, "target_tokens", "not '5'"),
        ({"answer": "7", "target_tokens": 10**10}, "target_tokens", "to 1,000,000,000"),
        ({"answer": " \n"}, "answer", "empty"),
        ("", "answer", "empty"),
        ("  ", "answer", "empty"),
        ({"answer": "7", "weight": 2}, None, "'weight'"),
        ({"answer": "7", "grader": "regex"}, "grader", "'regex'"),
        ({"answer": "7", "grader": 1}, "grader", "1"),
        ({"answer": "7", "grader": ["math"]}, "grader", "math"),
        ({"answer": "7", "mode": "test"}, "mode", "'test'"),
        ({"answer": "7", "choices": "AB"}, "choices", "list of strings"),
        ({"answer": "7", "choices": {"A": "x"}}, "choices", "list of strings"),
        ({"answer": "7", "choices": ["x", 2]}, "choices", "list of strings"),
        ({"answer": "A", "choices": ["x"] * 27}, "choices", "27"),
        ({"answer": "C", "choices": ["x", "y"]}, "answer", "'C'"),
        ({"answer": "green", "choices": ["red", "blue"]}, "answer", "'green'"),
        ({"answer": "red", "choices": ["red", "Red"]}, "answer", "'red'"),
        ({"answer": "7", "grader": "choice"}, "answer", "'7' is not a letter A-Z"),
        (
            {"answer": "red", "grader": "choice"},
            "answer",
            "list the options in `choices`, or use",
        ),
        ({"answer": "(c)", "choices": ["x", "y"]}, "answer", "'(c)' is not a letter A-B"),
        (["a\nb"], None, r"a list: ['a\nb']"),
        ({"answer": "maybe", "grader": "boolean"}, "answer", "'maybe'"),
    ],
)
def test_an_invalid_label_is_an_error_that_names_its_field(
    value: object, field: str | None, message: str
) -> None:
    with pytest.raises(LabelError) as caught:
        parse_label(value)
    assert caught.value.field == field
    assert message in str(caught.value)


def test_an_error_does_not_quote_a_whole_answer() -> None:
    with pytest.raises(LabelError) as caught:
        parse_label({"answer": "maybe" * 10_000, "grader": "boolean"})
    assert len(str(caught.value)) < 200


@given(st.text())
def test_any_text_is_a_label_or_a_label_error(text: str) -> None:
    try:
        label = parse_label(text)
    except LabelError:
        assert not text.strip() or text.lstrip().startswith("{")
        return
    assert label.answer == label.answer.strip() != ""
    assert label.mode == "train"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    json_values
    | st.fixed_dictionaries(
        {"answer": json_values},
        optional={"grader": json_values, "mode": json_values, "choices": json_values},
    )
)
def test_any_json_value_is_a_label_or_a_label_error(value: object) -> None:
    try:
        label = parse_label(value)
    except LabelError:
        return
    assert isinstance(label.answer, str)
    hash(label)


@pytest.mark.parametrize("notation", ["{}", "({})", "[{}]", "{}.", "${}$", "\\text{{{}}}"])
@pytest.mark.parametrize("letter", "ABCDE")
def test_choose_grader_knows_a_letter_in_any_notation(letter: str, notation: str) -> None:
    assert choose_grader(notation.format(letter)) == "choice"


def test_logicbenchs_own_names_of_options_are_letters() -> None:
    label = parse_label({"answer": "choice_2", "grader": "choice", "choices": ["red", "blue"]})
    assert label.answer == "B"
    with pytest.raises(LabelError, match="choice_3"):
        parse_label({"answer": "choice_3", "grader": "choice", "choices": ["red", "blue"]})


@pytest.mark.parametrize(
    "unit", [" ", "\n", "\u0301\u0323", "(", "option ", "choice_1", "$", "\\boxed{", "*", "a. "]
)
def test_a_long_label_takes_time_that_grows_with_its_length(unit: str) -> None:
    def measure(num_chars: int) -> float:
        label = "a" + unit * (num_chars // len(unit)) + "b"
        started = time.perf_counter()
        with suppress(LabelError):
            parse_label(label)
        return time.perf_counter() - started

    measure(1000)
    # The square of 200 would be 40,000. A second is allowed for what the machine does besides.
    assert measure(200_000) < 2000 * measure(1000) + 1


@pytest.mark.parametrize("group", ["row 7", 7, 0, -1, None])
def test_a_label_may_name_its_group(group: str | int | None) -> None:
    value = {"answer": "5", "group": group}
    assert parse_label(value).group == group
    assert parse_label(json.dumps(value)) == parse_label(value)
    assert (parse_label(value) == parse_label("5")) == (group is None)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (True, "group must be a text or a whole number, not True"),
        (1.5, "group must be a text or a whole number, not 1.5"),
        ([1], "group must be a text or a whole number, not [1]"),
        (" ", "group is empty; leave it out, or name the row"),
    ],
)
def test_a_group_of_another_kind_is_refused(group: object, message: str) -> None:
    with pytest.raises(LabelError) as caught:
        parse_label({"answer": "5", "group": group})
    assert (str(caught.value), caught.value.field) == (message, "group")
