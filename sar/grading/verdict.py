"""The result of grading one response."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a response was graded as it was."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    """Grading the response took too long. It counts as wrong, and in a counter of its own."""
    CRASHED = "crashed"
    """The response exhausted a grader's memory or stack, or killed several graders in a row. It
    counts as wrong, and in a counter of its own."""


@dataclass(frozen=True)
class Verdict:
    """A grader's result for one response."""

    reason: Reason
    answer: str | None = None
    """The answer that the grader extracted from the response."""
    label_unreadable: bool = False
    """The grader could not parse the label, and compared it as plain text instead."""

    @property
    def correctness(self) -> float:
        return 1.0 if self.reason is Reason.CORRECT else 0.0


def make_verdict(is_correct: bool, answer: str, *, label_unreadable: bool = False) -> Verdict:
    """Makes the verdict for a response from which an answer was extracted."""
    reason = Reason.CORRECT if is_correct else Reason.WRONG
    return Verdict(reason, answer, label_unreadable)


NO_ANSWER = Verdict(Reason.NO_ANSWER)
