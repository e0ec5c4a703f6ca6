"""The exact grader: compares words, whatever their case, spacing and end marks."""

from __future__ import annotations

import re

from sar.grading.label import Label
from sar.grading.rules.answers import find_statements
from sar.grading.rules.normalize import normalize_words
from sar.grading.verdict import NO_ANSWER, Comparison, Source, Verdict, make_verdict

_MAX_CHARS = 1000
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n+")
# All up to the verb: `The ball in the box is blue` says blue (exact-sentence-001).
_UP_TO_VERB = re.compile(
    r".*(?:\b(?:is|are|was|were|be|has|have|equals|called|named)\b|:)\s+(?!not\b)", re.DOTALL
)
# `an ellipse` says ellipse (math-text_answers-009), `on the 5th` says 5th.
_ARTICLE = re.compile(r"(?:on\s+)?(?:the|a|an)\s+")


def grade_exact(response: str, label: Label) -> Verdict:
    """Grades a response, without its thinking, by its stated answer or else its last line."""
    stated = find_statements(response)
    text = stated[-1].text if stated else response.rstrip().rpartition("\n")[2]
    words = extract_words(text, label.answer)
    if words is None:
        return NO_ANSWER
    is_equal = words == normalize_words(label.answer)
    comparison = Comparison(is_equal, f"the words are {'' if is_equal else 'not '}the label's")
    return make_verdict(comparison, words[:200], stated[-1].source if stated else Source.ENDING)


def extract_words(text: str, label: str) -> str | None:
    """Returns the normalised words of the answer in a sentence, or None if it has no word.

    They are the label's words if the sentence, or its part after the verb, consists of these.
    Otherwise they are the whole sentence.
    """
    text = text[:_MAX_CHARS]
    label_words = normalize_words(label)
    # A full stop may end the sentence or belong to the answer: `St. Louis`.
    sentence = _SENTENCE.split(text.strip())[0] if text.strip() else ""
    readings = [normalize_words(text), normalize_words(sentence)]
    after_verb = _UP_TO_VERB.sub("", sentence)
    readings += [normalize_words(r) for r in (after_verb, re.split(r",\s|\s\(", after_verb)[0])]
    readings += [_ARTICLE.sub("", r, count=1) for r in readings[-2:]]
    return label_words if label_words in readings else (readings[1] or None)
