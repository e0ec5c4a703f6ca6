"""Thinking, choices and truth values."""

import pytest

from sar.grading.grade import grade
from sar.grading.label import parse_label
from sar.grading.rules.answers import (
    cut_run_on,
    find_statements,
    find_thinking_tag,
    is_grading_tag,
    strip_thinking,
)
from sar.grading.verdict import Reason, Source


@pytest.mark.parametrize(
    ("response", "visible"),
    [
        ("<think>5</think>6", "6"),
        ("5</think>6", "6"),
        ("<think>5</think>\n<think>6</think>7", "7"),
        ("<think>5", ""),
        ("<think>5</think>", ""),
        ("<think>a</think>b<think>c", "b"),
        ("<thinking>5</thinking> 6", "6"),
        ("plain", "plain"),
    ],
)
def test_thinking_is_not_part_of_the_answer(response: str, visible: str) -> None:
    assert strip_thinking(response) == visible


COLOURS = {"answer": "B", "grader": "choice", "choices": ["red", "dark blue", "blue", "green"]}


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("B", Reason.CORRECT),
        ("(b)", Reason.CORRECT),
        ("\\boxed{\\text{(B)}}", Reason.CORRECT),
        ("The answer is (B) dark blue.", Reason.CORRECT),
        ("The sky turns dark blue.", Reason.CORRECT),
        ("The answer is blue.", Reason.WRONG),
        ("Not A, not C, so it must be B.", Reason.CORRECT),
        ("A... wait, no, B.", Reason.CORRECT),
        ("I choose D.", Reason.WRONG),
        ("The answer is choice_2.", Reason.CORRECT),
        ("choice_3", Reason.WRONG),
        ("A) red\nB) dark blue\nC) blue\nD) green", Reason.NO_ANSWER),
        ("red, dark blue, blue, green", Reason.NO_ANSWER),
        ("red\n\ndark blue\n\nblue\n\ngreen", Reason.NO_ANSWER),
        ("The answer is A or B.", Reason.NO_ANSWER),
        ("The answer is B/C.", Reason.NO_ANSWER),
        ("\\boxed{A}\\boxed{B}", Reason.NO_ANSWER),
        ("The answer cannot be B.", Reason.NO_ANSWER),
        ("N/A", Reason.NO_ANSWER),
        ("The answer is B because A is too bright.", Reason.CORRECT),
        ("It is dark blue, not green.", Reason.CORRECT),
        ("Answer: A, B, C, D", Reason.NO_ANSWER),
        ("A sky can have any colour.", Reason.NO_ANSWER),
        ("", Reason.NO_ANSWER),
        ("<think>B</think>", Reason.NO_ANSWER),
    ],
)
def test_choices(response: str, reason: Reason) -> None:
    assert grade(response, parse_label(COLOURS)).reason is reason


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("False", Reason.CORRECT),
        ("No.", Reason.CORRECT),
        ("True or false? It is false.", Reason.CORRECT),
        ("The statement is not true.", Reason.CORRECT),
        ("It is true that cats meow. So the statement is false.", Reason.CORRECT),
        ("\\boxed{\\text{False}}", Reason.CORRECT),
        ("The statement is true.", Reason.WRONG),
        ("It is not false.", Reason.WRONG),
        ("False. The opposite is true.", Reason.CORRECT),
        ("The answer is false because it is true that cats meow.", Reason.CORRECT),
        ("True. No wait, the rule says otherwise, so it is false.", Reason.CORRECT),
        ("True or false", Reason.NO_ANSWER),
        ("False, True", Reason.NO_ANSWER),
        ("It is unclear whether it is false.", Reason.NO_ANSWER),
        ("No cats are dogs", Reason.NO_ANSWER),
    ],
)
def test_truth_values(response: str, reason: Reason) -> None:
    assert grade(response, parse_label("False")).reason is reason


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
    ],
)
def test_a_prompt_can_open_the_thinking(prompt: str, tag: str) -> None:
    assert find_thinking_tag(prompt) == tag


def test_tags_that_are_special_tokens_are_kept_for_grading() -> None:
    assert is_grading_tag("<think>")
    assert is_grading_tag("</think>")
    assert is_grading_tag("</answer>")
    assert not is_grading_tag("<|im_end|>")


@pytest.mark.parametrize(
    ("response", "label", "reason"),
    [
        ('The question says "Answer: 73". I get 12.', "73", Reason.WRONG),
        ('The question says "Answer: 73". I get 12.', "12", Reason.CORRECT),
        ("The task wants “the final answer: 73” and I find 12.", "12", Reason.CORRECT),
        # Without another answer, the number in quotes is still the last number.
        ('So I would write "final answer: 12".', "12", Reason.CORRECT),
        ('"Wait." The answer: 12', "12", Reason.CORRECT),
        ("> **Answer:** 12", "12", Reason.CORRECT),
    ],
)
def test_an_answer_in_quotes_is_not_stated(response: str, label: str, reason: Reason) -> None:
    assert grade(response, parse_label(label)).reason is reason


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Answer: 5\n\nQuestion: and 2+2?\nAnswer: 4", "Answer: 5\n"),
        ("Answer: 5\nHuman: thanks", "Answer: 5\n"),
        ("Question: what?\nAnswer: 5", "Question: what?\nAnswer: 5"),
        ("We go on.\nProblem: none.", "We go on.\nProblem: none."),
        ("<|im_start|>assistant\n5<|im_end|>\n6", "<|im_start|>assistant\n5"),
        ("\x005\x7f", " 5 "),
    ],
)
def test_the_text_ends_where_the_model_runs_on(text: str, kept: str) -> None:
    assert cut_run_on(text) == kept


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"\boxed{1} and \boxed{2}", ["1, 2"]),
        (r"$$\boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 2)}$$", ["(2, 2), (6, 2)"]),
        (r"$x=\boxed{2}$ and $x=\boxed{3}$", ["2, 3"]),
        ("\\boxed{1} \\\\\n\\boxed{2}", ["1, 2"]),
        (r"\boxed{5} apples and \boxed{6} pears", ["5, 6"]),
        (r"\boxed{5}, \boxed{5}", ["5"]),
        (r"\boxed{72} = \boxed{73}", ["72 = 73"]),
        (r"\boxed{4}. Wait, no: \boxed{5}", ["4", "5"]),
        (r"**Part (a):** \boxed{6}. So the product is \boxed{42}", ["6", "42"]),
    ],
)
def test_boxes_given_together_are_one_statement(text: str, contents: list[str]) -> None:
    boxes = [s.text for s in find_statements(text) if s.source is Source.BOX]
    assert boxes == contents
