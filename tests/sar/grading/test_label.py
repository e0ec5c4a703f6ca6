"""Labels: how they are parsed, and which ones are errors."""

from __future__ import annotations

import json

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


def test_a_letter_past_the_default_choices_is_not_a_choice() -> None:
    assert parse_label("F").grader == "math"
    assert parse_label("a").grader == "math"


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
        ({"answer": "F", "grader": "choice"}, "answer", "A-E"),
        ({"answer": "7", "grader": "choice"}, "answer", "A-E"),
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
