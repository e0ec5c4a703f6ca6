"""Terms from the grader's verdict."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from sar.grading.verdict import Reason
from sar.terms.base import OPTIONS, Sample, Term


@dataclass(frozen=True, config=OPTIONS)
class Correctness(Term):
    """The grader's verdict."""

    formula = "1 if the answer is right, else 0"
    bounds = "0 or 1"
    source = "docs/grading.md"
    is_quick = True

    def score(self, sample: Sample) -> float:
        return sample.verdict.correctness


@dataclass(frozen=True, config=OPTIONS)
class NoAnswer(Term):
    """Marks a response that gives no answer; meant for a negative weight."""

    formula = "1 if the response gives no answer, else 0"
    bounds = "0 or 1"
    source = "docs/grading.md"
    is_quick = True

    def score(self, sample: Sample) -> float:
        return float(sample.verdict.reason is Reason.NO_ANSWER)
