"""The boolean grader: whether a response concludes True/Yes or False/No."""

from __future__ import annotations

import re

from sar.grading.label import Label
from sar.grading.rules.answers import find_statements
from sar.grading.rules.normalize import normalize_unicode
from sar.grading.verdict import NO_ANSWER, Verdict, make_verdict

_WRAPPED = re.compile(r"\\(?:text\w*|math\w*)\s*\{([^{}]*)\}")
# The question asked again, or both answers in one breath, says neither.
_BETWEEN = r"\W{0,3}(?:or(?: maybe)?|/|,|and|nor|vs\.?)\W{0,3}"
_UNDECIDED = re.compile(
    rf"\b(?:true|yes){_BETWEEN}(?:false|no)\b|\b(?:false|no){_BETWEEN}(?:true|yes)\b"
    r"|\b(?:true|yes)\s*\W{0,3}b[).:]\s*(?:false|no)\b",
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
# The text starts with its verdict, and what follows explains it.
_LEADING = re.compile(
    r"\W*(true|false|yes|no)(?:\W*$|\s*[.!\n*:;–—-]|,\s|\s+(?:because|since|as)\b)", re.IGNORECASE
)
_CONCLUDES = re.compile(
    r"\b(?:so|thus|hence|therefore|conclu\w+|wait|actually|final\w*|overall)\b", re.IGNORECASE
)
_REASON = re.compile(r"\s(?:because|since|as|while|if|so that)\s|;|—", re.IGNORECASE)
_UNSURE = re.compile(
    r"\b(?:whether|if it'?s?|unclear|cannot be (?:proven|determined|known)|can't (?:be|tell|say)"
    r"|it depends|were)\b",
    re.IGNORECASE,
)
_HOLDS = re.compile(
    r"\b(?:statement|claim|conclusion|proposition|hypothesis)\s+"
    r"(?:(?P<yes>holds|is (?:correct|valid|right))|(?P<no>(?:does not|doesn't) hold"
    r"|is (?:incorrect|invalid|wrong|not (?:correct|valid|right))))\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_NOT_THE_CASE = re.compile(r"\b(?:is not|isn't|not) (?:the case|so|correct|valid)\b", re.IGNORECASE)


def grade_boolean(response: str, label: Label) -> Verdict:
    """Grades a response's visible text (thinking removed) against true or false."""
    text = _WRAPPED.sub(r" \1 ", normalize_unicode(response)).replace("_", " ")
    concluded = _conclusion(text)
    if concluded is None:
        return NO_ANSWER
    answer = "true" if concluded else "false"
    return make_verdict(answer == label.answer, answer)


def _conclusion(text: str) -> bool | None:
    text = _HOLDS.sub(lambda m: "statement is " + ("true" if m["yes"] else "false"), text)
    for statement in reversed(find_statements(text)):
        first = _SENTENCE.split(statement.text)[0]
        if _UNDECIDED.search(first) or _UNSURE.search(first) or _hedges(first):
            return None
        if (truth := _verdict_in(first)) is not None:
            return truth
    sentences = _SENTENCE.split(text.strip())
    leading = _LEADING.match(text)
    if leading and not any(_CONCLUDES.search(sentence) for sentence in sentences[1:]):
        if _UNDECIDED.match(text.lstrip(" *")):
            return None
        return leading[1].casefold() in ("true", "yes")
    for index in range(len(sentences) - 1, -1, -1):
        sentence = sentences[index]
        if index < len(sentences) - 1:
            sentence = _TRUE_THAT.sub(" ", sentence)  # a step on the way, not the verdict
        if _UNSURE.search(sentence):
            continue
        truth = _verdict_in(_UNDECIDED.sub(" ", sentence))
        if truth is not None:
            return None if _hedges(sentence) else truth
        if _UNDECIDED.search(sentence):
            return None
        if _NOT_THE_CASE.search(sentence):
            return False
    return None


def _verdict_in(sentence: str) -> bool | None:
    """The truth value that a sentence ends on before it gives its reason."""
    found = _truths(_REASON.split(sentence)[0]) or _truths(sentence)
    return found[-1] if found else None


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
    """Whether a sentence offers both truth values."""
    both = len(set(_truths(sentence))) > 1
    return (
        both
        and re.search(r"\b(?:or|either|maybe|could be|otherwise)\b", sentence, re.I) is not None
    )
