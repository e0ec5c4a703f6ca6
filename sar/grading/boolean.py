"""The boolean grader: whether a response concludes True/Yes or False/No."""

from __future__ import annotations

import re

from sar.grading.answers import statements
from sar.grading.label import Label
from sar.grading.normalize import normalize_unicode
from sar.grading.verdict import NO_ANSWER, Verdict, judged

_WRAPPED = re.compile(r"\\(?:text\w*|math\w*)\s*\{([^{}]*)\}")
# The question asked again, or both answers in one breath, says neither.
_UNDECIDED = re.compile(
    r"\b(?:true|yes)\W{0,3}(?:or|/|and|nor|vs\.?)\W{0,3}(?:false|no)\b"
    r"|\b(?:false|no)\W{0,3}(?:or|/|and|nor|vs\.?)\W{0,3}(?:true|yes)\b|\b(?:true|yes)\s*\n?\W{0,3}b[).:]\s*(?:false|no)\b",
    re.IGNORECASE,
)
_WORD = re.compile(
    r"(?P<negation>\b(?:not|never|cannot be|can't be|isn't|is not|n't(?: be)?|neither)\s+"
    r"(?:necessarily |actually |really |logically |always |the case that (?:it is )?){0,2})?"
    r"\b(?P<word>true|false|yes|no|untrue)\b(?!-)",
    re.IGNORECASE,
)
# `no` is also a determiner: "no cats are ...", "there is no ...", "No. 5".
_NOT_A_VERDICT = re.compile(r"\s+(?:[a-z]+|\d)|\.\s*\d")
_IS_VERDICT = re.compile(
    r"\s+(?:because|since|as|is|it|that|the|this|he|she|they|we|based|given)\b"
)
_TRUE_THAT = re.compile(r"\b(?:true|false) that\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_NOT_THE_CASE = re.compile(r"\b(?:is not|isn't|not) (?:the case|so|correct|valid)\b", re.IGNORECASE)


def grade_boolean(response: str, label: Label) -> Verdict:
    """Grades a response's visible text (thinking removed) against true or false."""
    text = _WRAPPED.sub(r" \1 ", normalize_unicode(response)).replace("_", " ")
    concluded = _conclusion(text)
    if concluded is None:
        return NO_ANSWER
    answer = "true" if concluded else "false"
    return judged(answer == label.answer, answer)


def _conclusion(text: str) -> bool | None:
    for statement in reversed(statements(text)):
        first = _SENTENCE.split(statement.text)[0]
        if _UNDECIDED.search(first):
            return None
        found = _truths(first)
        if found:
            return found[-1]
    sentences = _SENTENCE.split(text.strip())
    for index in range(len(sentences) - 1, -1, -1):
        sentence = sentences[index]
        if index < len(sentences) - 1:
            sentence = _TRUE_THAT.sub(" ", sentence)  # a step on the way, not the verdict
        found = _truths(_UNDECIDED.sub(" ", sentence))
        if found:
            return found[-1] if len(set(found)) == 1 or not _hedges(sentence) else None
        if _UNDECIDED.search(sentence):
            return None
        if _NOT_THE_CASE.search(sentence):
            return False
    return None


def _truths(text: str) -> list[bool]:
    """Truth values a text states, in order."""
    found = []
    for match in _WORD.finditer(text):
        word = match["word"].casefold()
        rest = text[match.end() :]
        if word == "no" and _NOT_A_VERDICT.match(rest) and not _IS_VERDICT.match(rest):
            continue
        truth = word in ("true", "yes")
        found.append(truth != bool(match["negation"]))
    return found


def _hedges(sentence: str) -> bool:
    return re.search(r"\b(?:or|either|maybe|could be)\b", sentence, re.IGNORECASE) is not None
