"""Grades one response against one label: cuts the response at its end, removes the thinking, and
calls the label's grader.

Call it only in a grader process (see `processes.pool`): a response can make a parser hang or crash.
"""

from __future__ import annotations

from sar.grading.graded_text import strip_to_answer
from sar.grading.label import Label
from sar.grading.rules.answers import cut_run_on
from sar.grading.rules.boolean import grade_boolean
from sar.grading.rules.choice import grade_choice
from sar.grading.rules.exact import grade_exact
from sar.grading.rules.math import grade_math
from sar.grading.verdict import NO_ANSWER, Verdict


def grade(response: str, label: Label, *, read_label: bool = True) -> Verdict:
    """Grades a response.

    Args:
        response: what graders see of a response (`sar.grading.graded_text.make_graded_text`).
        read_label: False compares a math label as plain text, for a label that cannot be parsed.
    """
    text = cut_run_on(strip_to_answer(response))
    if not text.strip():
        return NO_ANSWER
    match label.grader:
        case "math":
            return grade_math(text, label.answer, read_label=read_label)
        case "choice":
            return grade_choice(text, label)
        case "boolean":
            return grade_boolean(text, label)
        case "exact":
            return grade_exact(text, label)
