"""The math grader: finds the answer a response ends with, and compares it with the label.

Only that short answer is ever parsed, never the whole response. Runs only in a grader process.
"""

from __future__ import annotations

import re

from sar.grading.rules.answers import find_statements
from sar.grading.rules.equivalence import is_equivalent, is_readable
from sar.grading.rules.final_answer import final_answer
from sar.grading.rules.normalize import normalize_formula
from sar.grading.rules.words import is_same_text
from sar.grading.verdict import NO_ANSWER, Verdict, make_verdict

_ACCEPTED = re.compile(
    r"\(?\s*(?:both|all|either)[^()]*accepted\s*\)?|\(?accepted\)?", re.IGNORECASE
)


def grade_math(response: str, label: str, *, read_label: bool = True) -> Verdict:
    """Grades a response's visible text (thinking removed) against a label's answer.

    A label that cannot be read as mathematics, or must not be (`read_label`), is compared as text.
    """
    accepted = parse_accepted_answers(label)
    unreadable = not (read_label and all(map(is_readable, accepted)))
    answer = final_answer(response, accepted[0])
    if answer is None:
        return NO_ANSWER
    correct = any(_matches(wanted, answer, unreadable) for wanted in accepted)
    return make_verdict(correct, answer[:200], label_unreadable=unreadable)


def is_readable_label(label: str) -> bool:
    """Whether a label can be read as mathematics."""
    return all(map(is_readable, parse_accepted_answers(label)))


def parse_accepted_answers(label: str) -> list[str]:
    """The answers a label accepts, normalised; of a whole worked solution, its final answer."""
    if "####" in label or r"\boxed" in label:
        stated = find_statements(label)
        label = stated[-1].text if stated else label
    if remark := _ACCEPTED.search(label):  # `080 or 081 (both were accepted)`
        alternatives = re.split(r"\bor\b|\band\b|,", label[: remark.start()])
        if accepted := [normalize_formula(a) for a in alternatives if a.strip()]:
            return accepted
    return [normalize_formula(label) or label.strip()]


def _matches(wanted: str, answer: str, unreadable: bool) -> bool:
    if unreadable:
        return is_same_text(wanted, answer)
    return is_equivalent(wanted, answer)
