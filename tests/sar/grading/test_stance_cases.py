"""Choice, boolean and exact answers that are denied, hedged, taken back or oddly phrased.

`stance_cases.jsonl` has responses of the kinds that a policy may try in order to be paid without
choosing, and plain phrasings that must not be mistaken for them. All verdicts agree.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.grading.grade import grade
from sar.grading.label import parse_label
from sar.grading.verdict import Reason

CASES = Path(__file__).parent / "stance_cases.jsonl"


@pytest.mark.parametrize("grader", ["choice", "boolean", "exact"])
def test_all_cases_agree(grader: str) -> None:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    cases = [case for case in cases if case["label"]["grader"] == grader]
    verdicts = [(case, grade(case["response"], parse_label(case["label"]))) for case in cases]
    assert len(verdicts) > 40
    assert [(c, v) for c, v in verdicts if bool(v.correctness) != c["correct"]] == []


@pytest.mark.parametrize("grader", ["choice", "boolean"])
def test_a_hedge_is_no_answer_and_not_a_wrong_one(grader: str) -> None:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    hedges = [c for c in cases if c["kind"] in ("no_several", "both_values")]
    hedges = [c for c in hedges if c["label"]["grader"] == grader]
    reasons = [grade(c["response"], parse_label(c["label"])).reason for c in hedges]
    assert reasons.count(Reason.NO_ANSWER) > 0.9 * len(reasons) > 50


FORMS = [
    "{}", "({})", "[{}]", "{}.", "({}).", "{})", "**{}**", "*({})*", '"{}"', "`{}`", "${}$",
    "\\({}\\)", "\\text{{{}}}", "\\text{{({})}}", "$\\text{{({})}}$", "\\textbf{{({}) }}",
    "\\mathrm{{({})}}", "option {}", "Option ({})",
]  # fmt: skip
WAYS = [
    "{}", "Answer: {}", "The answer is {}", "The answer is {}.", "\\boxed{{{}}}", "$\\boxed{{{}}}$",
    "<answer>{}</answer>", "#### {}", "**Answer:** {}", "Final answer: {}", "I choose {}.",
    "Therefore, the correct answer is {}.", "So the answer must be {}.", "So {}.", "Hence, {}",
    "It is {}.", "Let me think.\n\n{}", "**Final Answer**\n\n{}", "I would go with {}.",
    "My answer is {}", "The correct option is {}.", "The answer (A, B, C or D) is {}.",
    "{} is correct.", "{} is the right answer.", "Reasoning here.\nAnswer: {}\n",
    "I think the answer is {}", "The best choice is {}, because it follows.",
    "<think>Maybe A? Or B.</think>\n{}", "Answer: {}<|im_end|>\nAnswer: A",
]  # fmt: skip
LETTERS = st.sampled_from(string.ascii_letters)


@given(LETTERS, st.sampled_from(FORMS), st.sampled_from(WAYS), LETTERS, st.sampled_from(FORMS))
def test_a_letter_is_right_in_each_form_and_each_way_of_giving_it(
    given_letter: str, form: str, way: str, label_letter: str, label_form: str
) -> None:
    label = parse_label({"answer": label_form.format(label_letter), "grader": "choice"})
    verdict = grade(way.format(form.format(given_letter)), label)
    assert verdict.answer == given_letter.upper()
    assert bool(verdict.correctness) == (given_letter.upper() == label_letter.upper())


@given(st.lists(LETTERS, min_size=2, max_size=6), st.sampled_from(FORMS[:10]), st.data())
def test_several_letters_are_no_answer(letters: list[str], form: str, data: st.DataObject) -> None:
    if len({letter.upper() for letter in letters}) == 1:
        return
    joints = [", ", " or ", " and ", "/", " ", ", then ", "; ", ". ", "\n", " or maybe ", " | "]
    joint = data.draw(st.sampled_from(joints))
    text = data.draw(st.sampled_from(["{}", "Answer: {}", "The answer is {}", "\\boxed{{{}}}"]))
    written = text.format(joint.join(form.format(letter.upper()) for letter in letters))
    for letter in letters:
        assert grade(written, parse_label({"answer": letter, "grader": "choice"})).correctness == 0


NOT_CHOOSING = [
    "I would avoid {}.", "It isn't {}.", "It isnt {}", "anything but {}", "\\neg {}", "{}? No.",
    "I doubt the answer is {}.", "The wrong answer is {}.", "Answer: {}. Actually no.",
    "It would be wrong to say {}.", "The answer is not \\boxed{{{}}}.", "far from {}", "Is it {}?",
]  # fmt: skip


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from(NOT_CHOOSING))
def test_an_option_that_is_denied_is_not_chosen(letter: str, text: str) -> None:
    label = parse_label({"answer": letter, "grader": "choice"})
    assert grade(text.format(letter), label).correctness == 0


@given(st.sampled_from(["True", "true", "Yes", "yes", "TRUE"]), st.sampled_from(NOT_CHOOSING))
def test_a_truth_value_that_is_denied_is_not_given(word: str, text: str) -> None:
    assert grade(text.format(word), parse_label("True")).correctness == 0


@pytest.mark.parametrize(
    "joint", [" and ", " or ", "/", ", ", ". ", "\n", " ", "; ", ", but also "]
)
@pytest.mark.parametrize("form", ["{}", "\\text{{{}}}", "**{}**", "\\boxed{{{}}}", "Answer: {}"])
@pytest.mark.parametrize("pair", [("True", "False"), ("yes", "no"), ("No", "Yes")])
def test_both_truth_values_are_no_answer(pair: tuple[str, str], form: str, joint: str) -> None:
    text = joint.join(form.format(word) for word in pair)
    for label in ("True", "False"):
        assert grade(text, parse_label(label)).correctness == 0, text
