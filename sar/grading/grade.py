"""One response against one label: thinking removed, then the label's grader.

Called in a grader process only (see `pool`): what a response holds can take a parser down.
"""

from __future__ import annotations

from sar.grading.label import Label
from sar.grading.rules.answers import visible_text
from sar.grading.rules.boolean import grade_boolean
from sar.grading.rules.choice import grade_choice
from sar.grading.rules.exact import grade_exact
from sar.grading.rules.math import grade_math
from sar.grading.verdict import NO_ANSWER, Verdict


def grade(response: str, label: Label, *, read_label: bool = True) -> Verdict:
    """The verdict on a response.

    Args:
        response: the text the policy wrote, special tokens removed. Where its prompt opened a
            thinking block, the opening tag belongs in front.
        read_label: False compares a math label as text only, for one that cannot be read.
    """
    text = visible_text(response)
    if not text:
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
