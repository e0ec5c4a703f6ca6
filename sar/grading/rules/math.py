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
from sar.grading.rules.quantities import read_quantity
from sar.grading.verdict import NO_ANSWER, Comparison, Source, Verdict, make_verdict

# The remark in `080 or 081 (both were accepted)` (math-aime-007).
_ACCEPTED = re.compile(
    r"\(?\s*(?:both|all|either)[^()]*accepted\s*\)?|\(?accepted\)?", re.IGNORECASE
)

_WORDS = r"\\(?:text|textrm|textbf|mathrm|mbox)\s*\{([^{}]{1,200})\}"
_WORDS_BEFORE_BOX = re.compile(rf"{_WORDS}(?=(?:\s|\\[,;:! ]|~){{0,9}}\\(?:boxed|fbox))")
_WORDS_AFTER_BOX = re.compile(
    rf"(\\(?:boxed|fbox)\s*\{{[^{{}}]{{1,200}}\}}(?:\s|\\[,;:! ]|~){{0,9}}){_WORDS}"
)
# `18 / 3`, `18 / 3 apples.` at the end of prose; a displayed `$$18/3$$` is a statement.
_DIVISION_AT_END = re.compile(r"\d\s*[/÷]\s*[\d,.]*\d(?:\s+[A-Za-z]+){0,3}\s*\.?\s*\Z")
_FRACTION = re.compile(r"/|frac")
_EQUATION_AT_END = re.compile(r"=[\s$]*\Z")


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
    if source is Source.ENDING and (undone := _find_left_undone(response, answer, accepted)):
        rule = f"the answer is not worked out: the text ends in {undone}"
        return make_verdict(Comparison(False, rule), answer[:200], source)
    compare = compare_answers if is_read else compare_as_text
    comparisons = [compare(wanted, answer) for wanted in accepted]
    best = next((c for c in comparisons if c.is_equal), comparisons[0])
    return make_verdict(best, answer[:200], source, label_unreadable=not is_read)


def _find_left_undone(response: str, answer: str, accepted: list[str]) -> str:
    """Names what prose that states no answer leaves undone at its end, where it may be cut off.

    `Each gets 18 / 3` and `7 / 4 =` have no result. A quotient that does not come out even is a
    fraction; and any that is stated counts as a number, as in the field's graders: `\\boxed{18/3}`.
    """
    if _EQUATION_AT_END.search(response):
        return "an open equation"
    if not _DIVISION_AT_END.search(response) or any(map(_FRACTION.search, accepted)):
        return ""
    value = read_quantity(answer)
    return "a division" if value is not None and value.value.denominator == 1 else ""


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
