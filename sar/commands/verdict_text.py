"""Words for a verdict, the same in each report of `python -m sar grade`."""

from __future__ import annotations

from sar.grading.verdict import Reason, Verdict

UNREADABLE = "unreadable"
COMPARED_AS_TEXT = "label cannot be parsed as mathematics; compared as plain text"
VERDICT_NAMES = (*(reason.value for reason in Reason), UNREADABLE)
# For a verdict without a rule: no answer was compared.
_WHY = {
    Reason.NO_ANSWER: "the response states no answer that this grader can read",
    Reason.TIMEOUT: "grading took longer than --grader-timeout",
    Reason.CRASHED: "the response made the grader run out of memory or crash, again and again",
}


def name_verdict(verdict: Verdict) -> str:
    """The verdict's reason, or `unreadable` if the label may be at fault for a wrong answer."""
    is_labels_fault = verdict.label_unreadable and verdict.reason is Reason.WRONG
    return UNREADABLE if is_labels_fault else verdict.reason.value


def say_why(verdict: Verdict) -> str:
    """Why the response was graded so, in one line."""
    why = verdict.rule or _WHY.get(verdict.reason, "")
    if not verdict.label_unreadable:
        return why
    return f"{COMPARED_AS_TEXT}: {why}" if why else COMPARED_AS_TEXT
