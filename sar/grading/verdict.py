"""The result of grading one response."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


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

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """Makes a verdict from the fields that a grader process sent.

        Raises:
            ValueError, TypeError: they are no verdict; the process has been tampered with.
        """
        texts = {**fields, "answer": fields.get("answer") or ""}
        if not all(isinstance(texts.get(name), str) for name in ("answer", "rule")):
            raise TypeError("a grader sent a verdict whose texts are no texts")
        values = {**fields, "label_unreadable": bool(fields.get("label_unreadable"))}
        values["reason"], values["source"] = Reason(fields["reason"]), Source(fields["source"])
        return cls(**values)

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
