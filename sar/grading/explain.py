"""Explains a verdict: how the label and the answer were read, and where the answer stands.

It repeats the reading with the grader's own functions after the fact, so that grading itself spends
no time on texts that only a person reads. Runs only in a grader process.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Any, Self

from sar.grading.graded_text import cut_at_common_end, strip_to_answer
from sar.grading.label import Label
from sar.grading.rules.answers import Statement, find_statements
from sar.grading.rules.math import parse_accepted_answers
from sar.grading.rules.normalize import normalize_words
from sar.grading.rules.reading import describe_reading
from sar.grading.verdict import Source, Verdict

_AS_TEXT = "plain text"
# The excerpt's characters on each side of the answer, and in all if the answer is not in it.
_MARGIN_CHARS = 60
_TAIL_CHARS = 160
_MAX_STATEMENT_CHARS = 200
# A verdict holds no longer answer; one of this length may have lost its end.
_MAX_ANSWER_CHARS = 200


@dataclass(frozen=True)
class Excerpt:
    """A part of the response, with the place where the answer was found."""

    before: str
    answer: str
    """Empty if the answer's place is not known."""
    after: str
    is_start: bool
    """Whether nothing was cut off before it."""
    is_end: bool


@dataclass(frozen=True)
class Reading:
    """A text, and how it was read, in words."""

    text: str
    read_as: str


@dataclass(frozen=True)
class Explanation:
    """What a grader made of a label and a response."""

    accepted: tuple[Reading, ...]
    """The answers that the label accepts."""
    answer: Reading | None
    excerpt: Excerpt
    """From the response without its thinking."""
    num_thinking_chars: int
    """Characters of the response that were not graded, because they are thinking."""

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """Makes an explanation from the plain fields that a grader process sent.

        Raises:
            KeyError, TypeError: they are no explanation; the process has been tampered with.
        """
        answer = fields["answer"]
        return cls(
            accepted=tuple(Reading(**reading) for reading in fields["accepted"]),
            answer=Reading(**answer) if answer is not None else None,
            excerpt=Excerpt(**fields["excerpt"]),
            num_thinking_chars=fields["num_thinking_chars"],
        )


def explain(response: str, label: Label, verdict: Verdict) -> Explanation:
    """Explains the verdict on a response; `response` and `label` are the graded ones."""
    text = strip_to_answer(response)
    return Explanation(
        accepted=_read_label(label, verdict),
        answer=_read_answer(label, verdict),
        excerpt=_find_excerpt(text, verdict),
        num_thinking_chars=len(cut_at_common_end(response).strip()) - len(text),
    )


def _read_label(label: Label, verdict: Verdict) -> tuple[Reading, ...]:
    if label.grader != "math":
        return (_read_plain(label.answer, label),)
    # A label that stopped a grader must not be parsed again.
    is_text = verdict.label_unreadable
    accepted = parse_accepted_answers(label.answer)
    return tuple(Reading(a, _AS_TEXT if is_text else describe_reading(a)) for a in accepted)


def _read_answer(label: Label, verdict: Verdict) -> Reading | None:
    answer = verdict.answer
    if answer is None:
        return None
    if label.grader != "math":
        return _read_plain(answer, label)
    if verdict.label_unreadable:
        return Reading(answer, _AS_TEXT)
    if len(answer) >= _MAX_ANSWER_CHARS:
        return Reading(answer, "a long answer, not shown")
    return Reading(answer, describe_reading(answer))


def _read_plain(answer: str, label: Label) -> Reading:
    """Describes an answer for one of the graders that parse no mathematics."""
    if label.grader == "choice":
        number = string.ascii_uppercase.find(answer)
        said = f": {label.choices[number]}" if 0 <= number < len(label.choices) else ""
        among = f" of {len(label.choices)}" if label.choices else ""
        return Reading(answer, f"option {answer}{among}{said}")
    if label.grader == "boolean":
        return Reading(answer, "true or yes" if answer == "true" else "false or no")
    return Reading(answer, f"the words {normalize_words(answer)!r}")


def _find_excerpt(text: str, verdict: Verdict) -> Excerpt:
    start, end = _find_answer(text, verdict)
    if start == end:
        start = end = len(text)
        left, right = max(0, len(text) - _TAIL_CHARS), len(text)
    else:
        left, right = max(0, start - _MARGIN_CHARS), min(len(text), end + _MARGIN_CHARS)
    return Excerpt(
        text[left:start], text[start:end], text[end:right], left == 0, right == len(text)
    )


def _find_answer(text: str, verdict: Verdict) -> tuple[int, int]:
    """Returns where the answer starts and ends in a text; the same number twice if unknown."""
    stated = [s for s in find_statements(text) if s.source is verdict.source]
    if verdict.answer and stated:
        return _find_stated(text, verdict.answer, stated)
    if verdict.answer and verdict.source is Source.ENDING:
        # A single letter has to match in case: the option A is not the article.
        flags = re.IGNORECASE if len(verdict.answer) > 1 else re.NOFLAG
        found = list(re.finditer(rf"(?<!\w){re.escape(verdict.answer)}(?!\w)", text, flags))
        return found[-1].span() if found else (0, 0)
    return 0, 0


def _find_stated(text: str, answer: str, stated: list[Statement]) -> tuple[int, int]:
    """Returns where the answer stands in the last statement that has it word for word.

    If none has, returns where the last statement stands.
    """
    for statement in reversed(stated):
        offset = statement.text.find(answer)
        start = text.find(answer, statement.start + max(0, offset))
        if offset >= 0 and start >= 0:
            return start, start + len(answer)
    start = stated[-1].start
    return start, min(len(text), start + min(len(stated[-1].text), _MAX_STATEMENT_CHARS))
