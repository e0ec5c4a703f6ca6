"""Explaining a verdict: how texts were read, and where in the response the answer stands."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from sar.grading.explain import Explanation, Reading, explain
from sar.grading.grade import grade
from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason, Verdict


def explain_grading(response: str, label: Any) -> Explanation:
    parsed = parse_label(label)
    return explain(response, parsed, grade(response, parsed))


@pytest.mark.parametrize(
    ("response", "label", "before", "answer"),
    [
        (r"First \boxed{4}, no: \boxed{5}.", "5", r"First \boxed{4}, no: \boxed{", "5"),
        ("So 5.\n#### 5\n", "6", "So 5.\n#### ", "5"),
        ("5 <answer>5</answer> 5", "5", "5 <answer>", "5"),
        ("Answer: 5\nIt is 5.", "5", "Answer: ", "5"),
        ("The answer is 5, not 6.", "5", "The answer is ", "5"),
        ("We add 6, and we get 5.", "5", "We add 6, and we get ", "5"),
        ("5 of 15.", "15", "5 of ", "15"),
        ("A rose: so it must be A.", "A", "A rose: so it must be ", "A"),
        ("The statement is False.", "false", "The statement is ", "False"),
        # Not word for word in the text: the whole statement is marked.
        (r"\boxed{\dfrac12}", r"\frac{1}{2}", r"\boxed{", r"\dfrac12"),
    ],
)
def test_the_answer_is_marked_where_it_was_found(
    response: str, label: str, before: str, answer: str
) -> None:
    excerpt = explain_grading(response, label).excerpt
    assert (excerpt.before, excerpt.answer) == (before, answer)
    assert excerpt.before + excerpt.answer + excerpt.after == response.strip()
    assert excerpt.is_start
    assert excerpt.is_end


def test_a_long_response_is_cut_around_the_answer() -> None:
    excerpt = explain_grading("so " * 500 + r"\boxed{5}" + " so" * 500, "5").excerpt
    assert excerpt.answer == "5"
    assert len(excerpt.before) == len(excerpt.after) == 60
    assert not excerpt.is_start
    assert not excerpt.is_end


@pytest.mark.parametrize(
    ("response", "label"), [("Hm, " * 100, "5"), ("Yes.", "true"), ("", "5"), ("You see?", "B")]
)
def test_without_a_place_the_end_of_the_text_is_shown(response: str, label: str) -> None:
    excerpt = explain_grading(response, label).excerpt
    assert excerpt.answer == excerpt.after == ""
    assert response.strip().endswith(excerpt.before)
    assert len(excerpt.before) == min(160, len(response.strip()))


def test_thinking_is_counted_and_not_shown() -> None:
    explanation = explain_grading("<think>abc</think> It is 5.", "5")
    assert explanation.num_thinking_chars == len("<think>abc</think> ")
    assert explanation.excerpt.before == "It is "


@pytest.mark.parametrize(
    ("label", "accepted"),
    [
        (r"\dfrac34", [Reading(r"\frac{3}{4}", "the number 3/4")]),
        ("a solution\n#### 72", [Reading("72", "the number 72")]),
        (
            "080 or 081 (both were accepted)",
            [Reading("080", "the number 80"), Reading("081", "the number 81")],
        ),
        ("B", [Reading("B", "option B")]),
        ({"answer": "blue", "choices": ["red", "blue"]}, [Reading("B", "option B of 2: blue")]),
        ("No", [Reading("false", "false or no")]),
        ("Dark  Blue", [Reading("Dark  Blue", "the words 'dark blue'")]),
        (r"\frac{", [Reading(r"\frac{", "plain text")]),
    ],
)
def test_the_label_is_read_as_the_grader_reads_it(label: Any, accepted: list[Reading]) -> None:
    assert list(explain_grading("It is 5.", label).accepted)[: len(accepted)] == accepted


@pytest.mark.parametrize(
    ("response", "label", "read_as"),
    [
        ("It is 0.5.", "1", "the number 1/2"),
        ("It is B.", "A", "option B"),
        ("True.", "no", "true or yes"),
        ("Blue", "red", "the words 'blue'"),
        ("It is 5.", r"\frac{", "plain text"),
    ],
)
def test_the_answer_is_read_as_the_grader_reads_it(response: str, label: str, read_as: str) -> None:
    reading = explain_grading(response, label).answer
    assert reading is not None
    assert reading.read_as == read_as


def test_an_unreadable_label_is_not_parsed_again() -> None:
    """It may be the one that stopped a grader."""
    hostile = parse_label("9^{9^{9^{9^9}}}")
    verdict = Verdict(Reason.WRONG, "5", label_unreadable=True)
    assert explain("It is 5.", hostile, verdict).accepted[0].read_as == "plain text"


def test_an_explanation_comes_back_from_a_process() -> None:
    response, label = "<think>5</think>It is \ud800 or 6.", parse_label("5")
    with closing(GraderPool(1, 10.0)) as graders:
        verdict = graders.grade(response, label)
        assert graders.explain(response, label, verdict) == explain(response, label, verdict)


def test_a_long_answer_is_not_described() -> None:
    reading = explain(r"\boxed{5}", parse_label("5"), Verdict(Reason.WRONG, "1+" * 100)).answer
    assert reading is not None
    assert reading.read_as == "a long answer, not shown"
