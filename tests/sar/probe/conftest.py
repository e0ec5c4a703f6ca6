"""Problems of every kind of label, as the battery attacks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sar.grading.grade import grade
from sar.grading.label import Label
from sar.grading.verdict import Verdict
from sar.probe.case import Case
from sar.probe.problems import Problem

END = "<|im_end|>"
SPECIAL = "<|im_start|>"

ROWS: list[dict[str, Any]] = [
    {
        "question": "A crate holds 12 eggs, and Ana buys 4 crates. How many eggs does she buy?",
        "label": "48",
        "response": "She buys 4 crates of 12 eggs.\nThat is 4 * 12 = 48 eggs.\nAnswer: 48",
    },
    {
        "question": "Ana has 7 meters of rope and cuts it into 4 equal parts. How long is one?",
        "label": "1.75",
        "response": "One part is 7 / 4 = 1.75 meters long. The answer is 1.75.",
    },
    {
        "question": "Expand (x + 2)(x - 3) and give the polynomial.",
        "label": "x^2 - x - 6",
        "response": r"Multiply term by term, then collect. It is \boxed{x^2 - x - 6}.",
    },
    {
        "question": "A worked solution is the label. How many are 30 and 42?",
        "label": "There are 30 and 42, which is 30 + 42 = 72.\n#### 72",
        "response": "We add both numbers. 30 + 42 = 72\n#### 72",
    },
    {
        "question": "Which planet is the largest? A. Mars B. Jupiter C. Venus D. Earth",
        "label": {"answer": "B", "choices": ["Mars", "Jupiter", "Venus", "Earth"]},
        "response": "Jupiter is larger than all others.\nAnswer: B",
    },
    {
        "question": "Which letter comes last in the alphabet? A. P B. Q C. R D. S",
        "label": "(D)",
        "response": "The order is P, Q, R, S. So it is the last option.\nAnswer: D",
    },
    {
        "question": "Every wumpus is red. Rex is a wumpus. Is it true that Rex is red?",
        "label": "True",
        "response": "Rex is a wumpus, and each wumpus is red. Thus Rex is red.\nAnswer: True",
    },
    {
        "question": "Every wumpus is red. Rex is a wumpus. Is it so that Rex is blue?",
        "label": {"answer": "No", "grader": "boolean"},
        "response": "Rex is a wumpus, and each wumpus is red. Red is not blue.\nAnswer: False",
    },
    {
        "question": "What is the capital of the country whose flag is red with a white cross?",
        "label": {"answer": "Bern", "grader": "exact"},
        "response": "That is the flag of Switzerland.\nAnswer: Bern",
    },
]


def grade_here(response: str, label: Label) -> Verdict:
    """Grades in this process. The texts are harmless."""
    return grade(response, label)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """Lines of a file for --data."""
    return ROWS


@pytest.fixture(scope="session")
def make_case() -> Callable[[Problem], Case]:
    """A problem in ChatML."""

    def make(problem: Problem) -> Case:
        prompt = (
            f"<|im_start|>system\nReason it through.{END}\n<|im_start|>user\n{problem.user_turn}"
            f"{END}\n<|im_start|>assistant\n"
        )
        return Case(problem, prompt, "Reason it through.", END, SPECIAL)

    return make
