"""What a grader says of a response."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a verdict is what it is."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    """The response kept a grader busy past its time: a wrong answer, counted apart."""
    CRASHED = "crashed"
    """The response took one grader after the other down: a wrong answer, counted apart."""


@dataclass(frozen=True)
class Verdict:
    """A grader's judgement of one response."""

    reason: Reason
    answer: str | None = None
    """What was taken for the response's answer."""
    label_unreadable: bool = False
    """The label could not be read as its grader expects; plain text was compared instead."""

    @property
    def correctness(self) -> float:
        return 1.0 if self.reason is Reason.CORRECT else 0.0


def judged(correct: bool, answer: str, *, label_unreadable: bool = False) -> Verdict:
    """The verdict on an answer that was found."""
    reason = Reason.CORRECT if correct else Reason.WRONG
    return Verdict(reason, answer, label_unreadable)


NO_ANSWER = Verdict(Reason.NO_ANSWER)
