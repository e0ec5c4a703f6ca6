"""The boolean grader: finds whether a response concludes True/Yes or False/No."""

from __future__ import annotations

import re

from sar.grading.label import Label
from sar.grading.rules.answers import find_statements
from sar.grading.rules.normalize import normalize_unicode
from sar.grading.verdict import NO_ANSWER, Comparison, Source, Verdict, make_verdict

# `\text{False}`
_WRAPPED = re.compile(r"\\(?:text\w*|math\w*)\s*\{([^{}]*)\}")
# Both truth values together are no answer: `True/False` (boolean-hedges-002), `neither true nor
# false` (boolean-hedges-004), `A) True B) False`.
_BETWEEN = r"\W{0,3}(?:or(?: maybe)?|/|,|and|nor|vs\.?)\W{0,3}"
_UNDECIDED = re.compile(
    rf"\b(?:true|yes){_BETWEEN}(?:false|no)\b|\b(?:false|no){_BETWEEN}(?:true|yes)\b"
    r"|\b(?:true|yes)\s*\W{0,3}b[).:]\s*(?:false|no)\b",
    re.IGNORECASE,
)
# A truth value, perhaps negated: `untrue` (boolean-negations-016), `not necessarily true`.
_WORD = re.compile(
    r"(?P<negation>\b(?:not|never|cannot be|can't be|isn't|is not|n't(?: be)?|neither)\s+"
    r"(?:necessarily |actually |really |logically |always |the case that (?:it is )?){0,2})?"
    r"\b(?P<word>true|false|yes|no|untrue)\b(?!-)",
    re.IGNORECASE,
)
# After a `no` that is a determiner: `no cats are`, `No problem` (boolean-no_answer-006), `No. 5`.
_NOT_A_VERDICT = re.compile(r"\s+(?:[a-z]+|\d)|\.\s*\d")
# After a `no` that is an answer: `No because`, `no it is not`.
_IS_VERDICT = re.compile(
    r"\s+(?:because|since|as|is|it|that|the|this|he|she|they|we|based|given)\b"
)
# A step of the reasoning, not the conclusion: `It is true that` (boolean-no_answer-003).
_TRUE_THAT = re.compile(r"\b(?:true|false) that\b", re.IGNORECASE)
# A text that starts with its answer, then explains it: `False. The opposite is true.`
_LEADING = re.compile(
    r"\W*(true|false|yes|no)(?:\W*$|\s*[.!\n*:;–—-]|,\s|\s+(?:because|since|as)\b)", re.IGNORECASE
)
# A text that starts with an answer and corrects it: `False. Wait` (second-b2-change-174).
_CONCLUDES = re.compile(
    r"\b(?:so|thus|hence|therefore|conclu\w+|wait|actually|final\w*|overall)\b", re.IGNORECASE
)
_REASON = re.compile(r"\s(?:because|since|as|while|if|so that)\s|;|—", re.IGNORECASE)
# `It depends: yes if` (second-b2-hedge-169), `if the rule were false` (second-b2-tail-198).
_UNSURE = re.compile(
    r"\b(?:whether|if it'?s?|unclear|cannot be (?:proven|determined|known)|can't (?:be|tell|say)"
    r"|it depends|were)\b",
    re.IGNORECASE,
)
# `The statement is correct` (boolean-statement_verdict-007), `the claim does not hold`.
_HOLDS = re.compile(
    r"\b(?:statement|claim|conclusion|proposition|hypothesis)\s+"
    r"(?:(?P<yes>holds|is (?:correct|valid|right))|(?P<no>(?:does not|doesn't) hold"
    r"|is (?:incorrect|invalid|wrong|not (?:correct|valid|right))))\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# `It is not the case that Max is sour` (boolean-negations-014).
_NOT_THE_CASE = re.compile(r"\b(?:is not|isn't|not) (?:the case|so|correct|valid)\b", re.IGNORECASE)


def grade_boolean(response: str, label: Label) -> Verdict:
    """Grades a response, without its thinking, against true or false."""
    text = _WRAPPED.sub(r" \1 ", normalize_unicode(response)).replace("_", " ")
    found = _find_conclusion(text)
    if found is None:
        return NO_ANSWER
    truth, source = found
    answer = "true" if truth else "false"
    comparison = Comparison(answer == label.answer, f"the response concludes {answer}")
    return make_verdict(comparison, answer, source)


def _find_conclusion(text: str) -> tuple[bool, Source] | None:
    """Returns the truth value that a text concludes, and where; None if it hedges or has none.

    It is in a stated answer, else at the text's start, else in the last sentence that has one.
    """
    text = _HOLDS.sub(lambda m: "statement is " + ("true" if m["yes"] else "false"), text)
    for statement in reversed(find_statements(text)):
        first = _SENTENCE.split(statement.text)[0]
        if _UNDECIDED.search(first) or _UNSURE.search(first) or _hedges(first):
            return None
        if (truth := _read_sentence(first)) is not None:
            return truth, statement.source
    sentences = _SENTENCE.split(text.strip())
    leading = _LEADING.match(text)
    if leading and not any(_CONCLUDES.search(sentence) for sentence in sentences[1:]):
        if _UNDECIDED.match(text.lstrip(" *")):
            return None
        return leading[1].casefold() in ("true", "yes"), Source.ENDING
    for index, sentence in reversed(list(enumerate(sentences))):
        if index < len(sentences) - 1:
            sentence = _TRUE_THAT.sub(" ", sentence)
        if _UNSURE.search(sentence):
            continue
        truth = _read_sentence(_UNDECIDED.sub(" ", sentence))
        if truth is not None:
            return None if _hedges(sentence) else (truth, Source.ENDING)
        if _UNDECIDED.search(sentence):
            return None
        if _NOT_THE_CASE.search(sentence):
            return False, Source.ENDING
    return None


def _read_sentence(sentence: str) -> bool | None:
    """Returns the last truth value of a sentence before its reason: `false because ... true`."""
    found = _find_truths(_REASON.split(sentence)[0]) or _find_truths(sentence)
    return found[-1] if found else None


def _find_truths(text: str) -> list[bool]:
    """Returns the truth values in a text, in order; a negated one counts as its opposite."""
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
    """Whether a sentence offers both truth values: `maybe true, maybe false`."""
    if len(set(_find_truths(sentence))) < 2:
        return False
    return re.search(r"\b(?:or|either|maybe|could be|otherwise)\b", sentence, re.I) is not None
