"""The math grader: extracts a response's final answer, and compares it with the label.

It parses only that short answer, never the whole response. Runs only in a grader process.
"""

from __future__ import annotations

import re

from sar.grading.rules.answers import find_statements
from sar.grading.rules.equivalence import compare_answers, is_readable
from sar.grading.rules.final_answer import extract_answer
from sar.grading.rules.forms import compare_as_text
from sar.grading.rules.normalize import normalize_formula
from sar.grading.verdict import NO_ANSWER, Verdict, make_verdict

# The remark in `080 or 081 (both were accepted)` (math-aime-007).
_ACCEPTED = re.compile(
    r"\(?\s*(?:both|all|either)[^()]*accepted\s*\)?|\(?accepted\)?", re.IGNORECASE
)

_WORDS = r"\\(?:text|textrm|textbf|mathrm|mbox)\s*\{([^{}]{1,200})\}"
_WORDS_BEFORE_BOX = re.compile(rf"{_WORDS}(?=(?:\s|\\[,;:! ]|~){{0,9}}\\(?:boxed|fbox))")
_WORDS_AFTER_BOX = re.compile(
    rf"(\\(?:boxed|fbox)\s*\{{[^{{}}]{{1,200}}\}}(?:\s|\\[,;:! ]|~){{0,9}}){_WORDS}"
)


def grade_math(response: str, label: str, *, read_label: bool = True) -> Verdict:
    """Grades a response, without its thinking, against a label's answer.

    Args:
        read_label: False compares the label as text. So does a label that is not readable.
    """
    accepted = parse_accepted_answers(label)
    is_read = read_label and all(map(is_readable, accepted))
    extracted = extract_answer(_unwrap_words(response), accepted[0])
    if extracted is None:
        return NO_ANSWER
    answer, source = extracted
    compare = compare_answers if is_read else compare_as_text
    comparisons = [compare(wanted, answer) for wanted in accepted]
    best = next((c for c in comparisons if c.is_equal), comparisons[0])
    return make_verdict(best, answer[:200], source, label_unreadable=not is_read)


def _unwrap_words(response: str) -> str:
    """Writes words in LaTeX before and after a box as plain words: `\\text{half of }\\boxed{5}`."""
    return _WORDS_AFTER_BOX.sub(r"\1 \2 ", _WORDS_BEFORE_BOX.sub(r" \1 ", response))


def is_readable_label(label: str) -> bool:
    """Whether every answer that a label accepts can be parsed as mathematics."""
    return all(map(is_readable, parse_accepted_answers(label)))


def parse_accepted_answers(label: str) -> list[str]:
    """Returns the answers that a label accepts, normalised.

    The label may be a worked solution, such as GSM8K's; then they are its final answer.
    """
    if "####" in label or r"\boxed" in label:
        stated = find_statements(label)
        label = stated[-1].text if stated else label
    if remark := _ACCEPTED.search(label):
        alternatives = re.split(r"\bor\b|\band\b|,", label[: remark.start()])
        if accepted := [normalize_formula(a) for a in alternatives if a.strip()]:
            return accepted
    return [normalize_formula(label) or label.strip()]
