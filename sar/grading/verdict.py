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


class Source(StrEnum):
    """Where in a response the answer was found."""

    NONE = "nowhere"
    BOX = r"in \boxed{}"
    TAG = "in <answer>"
    HASHES = "after ####"
    LINE = "in an answer line"
    PROSE = "after 'the answer is'"
    ENDING = "at the end of the text, which states no answer"


@dataclass(frozen=True)
class Comparison:
    """Whether an answer equals the label, and the rule that decided it."""

    is_equal: bool
    rule: str
    """One line for the person who looks into a verdict: `both are the number 3/4`."""


@dataclass(frozen=True)
class Verdict:
    """A grader's result for one response."""

    reason: Reason
    answer: str | None = None
    """The answer that the grader extracted from the response."""
    label_unreadable: bool = False
    """The grader could not parse the label, and compared it as plain text instead."""
    source: Source = Source.NONE
    rule: str = ""
    """Why the answer is right or wrong, in one line (see `Comparison`)."""

    @property
    def correctness(self) -> float:
        return 1.0 if self.reason is Reason.CORRECT else 0.0


def make_verdict(
    comparison: Comparison, answer: str, source: Source, *, label_unreadable: bool = False
) -> Verdict:
    """Makes the verdict for a response from which an answer was extracted."""
    reason = Reason.CORRECT if comparison.is_equal else Reason.WRONG
    return Verdict(reason, answer, label_unreadable, source, comparison.rule)


NO_ANSWER = Verdict(Reason.NO_ANSWER)
