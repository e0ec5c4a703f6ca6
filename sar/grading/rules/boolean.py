"""The boolean grader: finds whether a response concludes True/Yes or False/No.

A response that gives both values, holds its answer back (`half true`) or takes it back has none.
"""

from __future__ import annotations

import re

from sar.grading.label import Label
from sar.grading.rules import stance
from sar.grading.rules.answers import Statement
from sar.grading.rules.normalize import normalize_unicode
from sar.grading.rules.tags import find_statements_and_tags
from sar.grading.rules.truths import find_truths, is_fragment, is_held_back, read_sentence
from sar.grading.verdict import NO_ANSWER, Comparison, Source, Verdict, make_verdict

_MAX_LEAD_CHARS = 200
_MAX_STATEMENT_CHARS = 1000
_MAX_SENTENCE_CHARS = 1500
# Sentences after an answer that can take it back.
_MAX_FOLLOWING = 100

# `\text{False}`
_WRAPPED = re.compile(r"\\(?:text\w*|math\w*)\s*\{([^{}]*)\}")
_PAIR = (
    r"[\"'*]*(?:true|yes)[\"'*]*\s*(?:/|\||,|or|and)\s*[\"'*]*(?:false|no)[\"'*]*"
    r"|[\"'*]*(?:false|no)[\"'*]*\s*(?:/|\||,|or|and)\s*[\"'*]*(?:true|yes)[\"'*]*"
)
# The question's own choice: `the answer (Yes or No) is No`, `the answer, true or false, is true`.
_ASKED = re.compile(
    rf"[(\[]\s*(?:answer\s+|either\s+)?(?:{_PAIR})\s*[)\]]|(?<=answer),?\s+(?:either\s+)?(?:{_PAIR}),?"
    r"(?=\s*(?:is|was|:)(?!\w))",
    re.IGNORECASE,
)
# Both truth values together are no answer: `True/False` (boolean-hedges-002), `neither true nor
# false` (boolean-hedges-004), `A) True B) False`.
_BETWEEN = r"\W{0,3}(?:or(?: maybe)?|/|,|and|nor|vs\.?)\W{0,3}"
_UNDECIDED = re.compile(
    rf"\b(?:true|yes){_BETWEEN}(?:false|no)\b|\b(?:false|no){_BETWEEN}(?:true|yes)\b"
    r"|\b(?:true|yes)\s*\W{0,3}b[).:]\s*(?:false|no)\b",
    re.IGNORECASE,
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
# Explains the answer before it: `This is because no rule makes it true.`
_EXPLAINS = re.compile(
    r"\W*(?:(?:this|that|it)(?:'s| is)\s+)?(?:because|since|due to|as)\b(?![^,]*,)", re.IGNORECASE
)
_CORRECTS = re.compile(
    r"\W*(?:(?:hmm+|oh|but)\W+)?(?:wait|actually|hold on|correction|on second thought|sorry|oops"
    r"|scratch that|no,|i mean)",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(
    r"\W*(?:or|maybe|perhaps|possibly|alternatively|then again"
    r"|(?:it|this) (?:could|might|may) also)\b",
    re.IGNORECASE,
)
# `It depends: yes if` (second-b2-hedge-169), `if the rule were false` (second-b2-tail-198).
_UNSURE = re.compile(
    r"\b(?:whether|if it'?s?|unclear|cannot be (?:proven|determined|known)|can't (?:be|tell|say)"
    r"|it depends|were)\b",
    re.IGNORECASE,
)
# `The statement is correct` (boolean-statement_verdict-007), `the claim does not hold`.
_HOLDS = re.compile(
    r"\b(?:statement|claim|conclusion|proposition|hypothesis)\s+"
    r"(?:(?P<yes>holds|is (?:correct|valid|right))|(?P<no>(?:does not|doesn'?t) hold"
    r"|is (?:incorrect|invalid|wrong|not (?:correct|valid|right))))\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# `It is not the case that Max is sour` (boolean-negations-014).
_NOT_THE_CASE = re.compile(
    r"\b(?:is not|isn'?t|not) (?:the case|so|correct|valid)\b", re.IGNORECASE
)

_Conclusion = tuple[bool, Source]


def grade_boolean(response: str, label: Label) -> Verdict:
    """Grades a response, without its thinking, against true or false."""
    text = _WRAPPED.sub(r" \1 ", normalize_unicode(response)).replace("_", " ")
    text = stance.remove_struck(text)
    found = _find_conclusion(_ASKED.sub(" ", text))
    if found is None:
        return NO_ANSWER
    truth, source = found
    answer = "true" if truth else "false"
    comparison = Comparison(answer == label.answer, f"the response concludes {answer}")
    return make_verdict(comparison, answer, source)


def _find_conclusion(text: str) -> _Conclusion | None:
    """Returns the truth value that a text concludes, and where; None if it hedges or has none.

    It is in a stated answer, else at the text's start, else in the last sentence that has one.
    """
    text = _HOLDS.sub(lambda m: "statement is " + ("true" if m["yes"] else "false"), text)
    stated = [(s, _read_statement(text, s)) for s in find_statements_and_tags(text)]
    values = [(s, value) for s, (value, is_said) in stated if is_said]
    if values:
        return _choose_statement(text, values)
    sentences = _split(text)
    leading = _LEADING.match(text)
    if leading and not any(_CONCLUDES.search(sentence) for sentence in sentences[1:]):
        if _UNDECIDED.match(text.lstrip(" *")):
            return None
        at = next((i for i, sentence in enumerate(sentences) if find_truths(sentence)), 0)
        first = read_sentence(sentences[at])
        return _follow(first.value if first else None, sentences[at + 1 :], Source.ENDING)
    return _find_in_sentences(sentences)


def _read_statement(text: str, statement: Statement) -> tuple[bool | None, bool]:
    """Returns the value that a stated answer gives, None if it hedges, and whether it has one."""
    lead = text[max(0, statement.start - _MAX_LEAD_CHARS) : statement.start]
    lead = re.split(r"\n|[.!?]\s", lead)[-1]
    first = _SENTENCE.split(statement.text[:_MAX_STATEMENT_CHARS])[0]
    truth = read_sentence(first)
    is_hedged = _UNDECIDED.search(first) or _UNSURE.search(first) or _hedges(first)
    if is_hedged:
        return None, True
    if truth is None:
        return None, False
    is_asked = first.rstrip(" *\"')").endswith("?")
    return (None if is_asked or stance.is_denied(lead) else truth.value), True


def _choose_statement(text: str, values: list[tuple[Statement, bool | None]]) -> _Conclusion | None:
    """Returns the last stated value, unless another one stands beside it or it is taken back."""
    last, value = values[-1]
    for statement, other in values[-2::-1]:
        said = find_truths(statement.text[:_MAX_STATEMENT_CHARS])
        start = statement.start + (said[0].end if said else 0)
        if stance.changes_mind(text[start : last.start]):
            break
        if other != value:
            return None
    end = last.start + len(_SENTENCE.split(last.text)[0])
    rest = re.sub(r"^(?:[})\]$ ]|\\[)\]]|</answer>)+", "", text[end : end + _MAX_LEAD_CHARS])
    if last.source in (Source.BOX, Source.TAG) and is_held_back(" " + rest.split("\n")[0]):
        return None
    following = re.sub(r"^(?:[})\]$\s.!]|\\[)\]]|</answer>)+", "", text[end : end + 4000])
    return _follow(value, _split(following), last.source)


def _follow(value: bool | None, sentences: list[str], source: Source) -> _Conclusion | None:
    """Returns a value, once the sentences after it were read: they may take it back."""
    is_list = True
    for sentence in sentences[:_MAX_FOLLOWING]:
        truth = None if sentence.rstrip().endswith("?") else read_sentence(sentence)
        is_other = truth is not None and truth.value != value
        if is_other and ((is_list and is_fragment(sentence)) or _ALTERNATIVE.match(sentence)):
            return None
        if stance.takes_back(sentence) or (truth and _CORRECTS.match(sentence)):
            value = truth.value if truth else None
        is_list = is_list and is_fragment(sentence)
    return None if value is None else (value, source)


def _find_in_sentences(sentences: list[str]) -> _Conclusion | None:
    """Returns the value of the last sentence that has one."""
    for index, sentence in reversed(list(enumerate(sentences))):
        is_last = index == len(sentences) - 1
        is_asked = sentence.rstrip().endswith("?") and not is_last
        said = sentence if is_last else _TRUE_THAT.sub(" ", sentence)
        if _UNSURE.search(said) or is_asked or _EXPLAINS.match(said):
            continue
        decided = _UNDECIDED.sub(" ", said)
        truth = read_sentence(decided)
        if truth is not None:
            if truth.value is None or _hedges(decided) or said.rstrip().endswith("?"):
                return None
            if is_fragment(sentence) and _is_listed(sentences[:index], truth.value):
                return None
            return _follow(truth.value, sentences[index + 1 :], Source.ENDING)
        if _UNDECIDED.search(said):
            return None
        if _NOT_THE_CASE.search(said):
            return False, Source.ENDING
    return None


def _split(text: str) -> list[str]:
    """Returns the ends of a text's sentences and lines, which are as long as any real one."""
    sentences = (sentence[-_MAX_SENTENCE_CHARS:] for sentence in _SENTENCE.split(text.strip()))
    return [sentence for sentence in sentences if sentence.strip()]


def _is_listed(before: list[str], value: bool) -> bool:
    """Whether the sentences just before a bare value are bare values too, and one is another."""
    for index, sentence in reversed(list(enumerate(before))):
        is_reply = index and before[index - 1].rstrip().endswith("?")  # `Is it false? No.`
        if is_reply or not is_fragment(sentence):
            return False
        if any(truth.value != value for truth in find_truths(sentence)):
            return True
    return False


def _hedges(sentence: str) -> bool:
    """Whether a sentence offers both truth values: `maybe true, maybe false`."""
    if len({truth.value for truth in find_truths(sentence)}) < 2:
        return False
    return re.search(r"\b(?:or|either|maybe|could be|otherwise)\b", sentence, re.I) is not None
