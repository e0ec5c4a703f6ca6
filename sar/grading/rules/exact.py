"""The exact grader: compares words, whatever their case, spacing and end marks."""

from __future__ import annotations

import re

from sar.grading.label import Label
from sar.grading.rules import stance
from sar.grading.rules.answers import Statement
from sar.grading.rules.normalize import normalize_unicode, normalize_words
from sar.grading.rules.tags import find_statements_and_tags
from sar.grading.verdict import NO_ANSWER, Comparison, Source, Verdict, make_verdict

_MAX_CHARS = 1000
_MAX_RIVAL_CHARS = 60
# After an answer, another one: `Paris. London.`
_ITEM = re.compile(r"\W*[A-Z]\w*(?: [A-Z]\w*)?\W*")
_LINE_OR_SENTENCE = re.compile(r"\n|[.!?]\s")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n+")
# All up to the verb: `The ball in the box is blue` says blue (exact-sentence-001).
_UP_TO_VERB = re.compile(
    r".*(?:\b(?:is|are|was|were|be|has|have|equals|called|named)\b|:)\s+(?!not\b)", re.DOTALL
)
# `an ellipse` says ellipse (math-text_answers-009), `on the 5th` says 5th.
_ARTICLE = re.compile(r"(?:on\s+)?(?:the|a|an)\s+")


def grade_exact(response: str, label: Label) -> Verdict:
    """Grades a response, without its thinking, by its stated answer or else its last line."""
    response = stance.remove_struck(response)
    stated = find_statements_and_tags(response)
    text = stated[-1].text if stated else response.rstrip().rpartition("\n")[2]
    words = extract_words(text, label.answer)
    if words is None:
        return NO_ANSWER
    is_equal = words == normalize_words(label.answer)
    if is_equal and not (_stands(response, text, stated) and _agree(response, stated, label)):
        return NO_ANSWER
    comparison = Comparison(is_equal, f"the words are {'' if is_equal else 'not '}the label's")
    return make_verdict(comparison, words[:200], stated[-1].source if stated else Source.ENDING)


def _stands(response: str, text: str, stated: list[Statement]) -> bool:
    """Whether a response stands by its answer: it does not ask, deny or take it back."""
    start = stated[-1].start if stated else len(response.rstrip()) - len(text)
    lead = _LINE_OR_SENTENCE.split(response[max(0, start - _MAX_CHARS) : start])[-1]
    first, *following = stance.split_following(response[start : start + _MAX_CHARS]) or [""]
    up_to_verb = _UP_TO_VERB.match(first)
    before = normalize_unicode(lead + (up_to_verb[0] if up_to_verb else ""))
    if stance.is_denied(before) or stance.is_supposed(before):
        return False
    is_asked = stance.is_question(first, following[0] if following else "")
    is_list = bool(following) and _ITEM.fullmatch(following[0]) is not None
    return not (is_asked or is_list or any(map(stance.takes_back, following)))


def _agree(response: str, stated: list[Statement], label: Label) -> bool:
    """Whether no other answer stands beside the last stated one: `Answer: red. Answer: blue.`

    Another one is stated in the same way and is as short as an answer.
    """
    for statement in stated[-2::-1]:
        if stance.changes_mind(response[statement.start : stated[-1].start]):
            return True
        first = _SENTENCE.split(statement.text[:_MAX_CHARS])[0]
        is_short = len(first) <= _MAX_RIVAL_CHARS and "answer" not in first.casefold()
        is_rival = is_short and statement.source is stated[-1].source
        if is_rival and extract_words(first, label.answer) != normalize_words(label.answer):
            return False
    return True


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
