"""Where a label's answer is put into a response, for the term `reference_likelihood`.

The label's answer takes the place of the response's own: the last one that the response states,
where the graders look for it. The text before it stays, and so does its marker, such as `\\boxed{`
or "The answer is". A response that states no answer, or was cut, is followed by `NO_ANSWER_MARKER`.

Without the reasoning, the marker follows the prompt directly. So both likelihoods are those of an
answer in the same form, and a response that gives no reason gains nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from sar.grading.graded_text import strip_to_answer
from sar.grading.rules.answers import cut_run_on, find_statements, find_thinking_tag
from sar.grading.verdict import Source

NO_ANSWER_MARKER = "The answer is "

# Several boxes can be one statement. The reference takes the place of the first.
_BOX_START = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{?\s*")
_MATH_DELIMITERS = ("$", r"\(", r"\[")
# What can stand between a marker and the answer: `Answer: **5**`, `The answer is $5$`.
_OPENING = re.compile(r"(?:[\s*_`$]|\\[(\[])*")


class AnswerPlace(NamedTuple):
    """What comes before an answer in a response."""

    reasoning: str
    """The response up to the marker; empty if it gives its answer at once."""
    marker: str


def find_answer_place(
    prompt: str, response: str, reference: str, end_tokens: Iterable[str] = ()
) -> AnswerPlace:
    """Finds where the reference takes the place of the response's answer.

    Args:
        end_tokens: texts of the tokens that end a response.
    """
    ends = (response.find(token) for token in end_tokens if token)
    text = response[: min((end for end in ends if end >= 0), default=len(response))]
    answer = strip_to_answer(find_thinking_tag(prompt) + text)
    # In the whole response, the part after the thinking is the last text that reads like this.
    start = text.rfind(answer)
    kept = cut_run_on(answer)
    statements = find_statements(kept if answer.startswith(kept) else answer) if answer else []
    if start < 0 or not statements:
        reasoning = text.rstrip()
        return AnswerPlace(reasoning and reasoning + "\n", NO_ANSWER_MARKER)
    # A line can be two statements, `Final answer: 5` and `answer: 5`. The longer marker counts.
    nearest = (one for one in statements if one.start == statements[-1].start)
    last = min(nearest, key=lambda one: one.lead_end)
    marker = answer[last.lead_end : last.start]
    if last.source is Source.BOX and (box := _BOX_START.match(answer, last.lead_end)):
        marker = box[0]
    if not reference.startswith(_MATH_DELIMITERS):
        end = last.lead_end + len(marker)
        opening = _OPENING.match(answer, end)
        marker += opening[0] if opening else ""
    return AnswerPlace(text[: start + last.lead_end], marker)
