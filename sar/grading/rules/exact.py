"""The exact grader: the answer's words, whatever their case, spacing and end marks."""

from __future__ import annotations

import re

from sar.grading.label import Label
from sar.grading.rules.answers import find_statements
from sar.grading.rules.normalize import normalize_words
from sar.grading.verdict import NO_ANSWER, Verdict, make_verdict

_MAX_CHARS = 1000
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n+")
# `So the day will be a Monday, as planned.` says Monday.
_COPULA = re.compile(
    r".*(?:\b(?:is|are|was|were|be|has|have|equals|called|named)\b|:)\s+(?!not\b)", re.DOTALL
)
_ARTICLE = re.compile(r"(?:on\s+)?(?:the|a|an)\s+")


def grade_exact(response: str, label: Label) -> Verdict:
    """Grades a response's visible text (thinking removed): its stated answer or last line."""
    stated = find_statements(response)
    source = stated[-1].text if stated else response.rstrip().rpartition("\n")[2]
    said = extract_words(source, label.answer)
    if said is None:
        return NO_ANSWER
    return make_verdict(said == normalize_words(label.answer), said[:200])


def extract_words(text: str, label: str) -> str | None:
    """What a sentence says, as normalised words: the label's if they are all it says, or what it
    says after its verb. None if there is no word."""
    text = text[:_MAX_CHARS]
    wanted = normalize_words(label)
    # A full stop can end the sentence or belong to the answer.
    sentence = _SENTENCE.split(text.strip())[0] if text.strip() else ""
    readings = [normalize_words(text), normalize_words(sentence)]
    after_verb = _COPULA.sub("", sentence)
    readings += [normalize_words(r) for r in (after_verb, re.split(r",\s|\s\(", after_verb)[0])]
    readings += [_ARTICLE.sub("", r, count=1) for r in readings[-2:]]
    return wanted if wanted in readings else (readings[1] or None)
