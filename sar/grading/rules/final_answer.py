"""The mathematical answer of a text: the last one stated, else what the text ends with.

In order: the last explicit statement (see `answers`), less the prose around it; a bold number near
the end; the formula that the last sentence ends with; the last formula or number. The label's form
says what to look for (a time, a ratio, words), never what to find.
"""

from __future__ import annotations

import re
from itertools import pairwise

from sar.grading.rules.answers import Statement, find_statements
from sar.grading.rules.exact import extract_words
from sar.grading.rules.normalize import normalize_answer, normalize_formula, normalize_unicode
from sar.grading.rules.quantities import INTEGER, read_quantity
from sar.grading.rules.words import has_words, is_same_spelling, is_textual

_MAX_ANSWER_CHARS = 2000
# The last number of a text without markers is looked for here.
_TAIL_CHARS = 2000

_DECIMAL = rf"(?:{INTEGER}(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(
    r"(?<![\w.^_{\\])(?<![\d)]-)[+-]?(?:\\?\$)?\s?"
    r"(?:\d{1,2}:\d\d(?:\s*[ap]\.?m\b)?|\d+:\d+"
    r"|\d+\s+(?:and\s+)?\d+\s*/\s*\d+|(?:\d+\s*)?\\[dt]?frac\{[^{}]*\}\{[^{}]*\}"
    rf"|{_DECIMAL}\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{{?-?\d+\}}?"
    rf"|{_DECIMAL}\s*/\s*{_DECIMAL}|{_DECIMAL})"
)
_WORDS_BEFORE = re.compile(
    r".*(?<![\\a-zA-Z])(?!(?:or|and|sqrt|sin|cos|tan|log|ln|pi)\b)[a-zA-Z]{2,}(?:'[a-z]+)?[\s:,]+",
    re.DOTALL,
)
# Of a multiple-choice item whose label is the option's value: `(C) 8`, `8 (C)`.
_OPTION_LETTER = re.compile(r"^\(?[A-E]\)[\s.:]+(?=\S)|(?<=\S)\s+\([A-E]\)$")
_ASIDE = re.compile(
    r"\b(?:in|for|per|at|from|with|by|after|before|every|each|on|over|within|than|out of|instead of"
    r"|unlike|least|most|not|isn't|wasn't|aren't)\s+"
    r"(?:(?:the|her|his|their|its|a|an|our|my|all|every|just|only)\s+)?$",
    re.IGNORECASE,
)
_COMPARED = re.compile(
    r"\s*(?:\w+\s+)?(?:(?:fewer|more|less|greater) than|of (?:them|these|which))\b"
)
_DENIAL = re.compile(
    r"\b(?:not|isn't|wasn't|aren't|rather than|instead of|unlike)\s+$", re.IGNORECASE
)
_LEAD = re.compile(r"\A[\s.=…:]*(?:i\.e\.|[A-Za-z]\s*:)?[\s=]*")
_LAST_SENTENCE = re.compile(r"(?<=[^\d\s][.!?])\s+(?=[A-Z*$\\])|(?<=[.!?])\s+(?=[A-Z])")
# An aside that explains; `(2, 3)` is none.
_PARENTHESIS = re.compile(
    r"\((?=[^()]*[a-zA-Z]{3})[^()]{1,300}\)|\(\s*[a-z]{1,3}\s*(?:\^\s*\{?[23]\}?|[²³])?\s*\)"
)
_MATH_SEGMENT = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$([^$\n]{1,300}?)(?<!\\)\$(?!\d)", re.DOTALL
)
_DISPLAY = re.compile(r"\\\[(.+?)(?:\\\]|\Z)|\$\$(.+?)(?:\$\$|\Z)", re.DOTALL)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_SENTENCE_END = re.compile(
    r"(?<![ap]\.m)(?<!\b[a-zA-Z])[.!?](?=\s|$|\*)|(?<=[ap]\.m)\.(?=\s+[A-Z]|$)"
)
_CONTINUATION = re.compile(
    r"\s*(?:,|;|--|—|\()?\s*(?:\b(?:because|since|which|where|as|so that|given)\b).*", re.DOTALL
)
_COPULA = re.compile(
    r".*(?:\b(?:is|are|equals|be|was|of|has|have|to|get|gets|total)\b|:)\s+", re.DOTALL
)
_CLOCK_TIME = re.compile(
    r"\d{1,2}(?:\s*:\s*\d{2}(?!\d)(?:\s*[ap]\.?m\b)?|\s*[ap]\.?m\b)", re.IGNORECASE
)


def extract_answer(text: str, wanted: str) -> str | None:
    """The answer of a text, normalised, or None.

    Args:
        text: a response, thinking removed.
        wanted: the label's answer, normalised.
    """
    stated = find_statements(text)
    if is_textual(wanted):
        return _textual_answer(text, stated, wanted)
    for statement in reversed(stated):
        answer = _interpret(statement, wanted)
        if answer is not None and (
            statement.is_explicit or not _only_talks_about(statement, answer)
        ):
            return answer
    return _last_expression(text, wanted)


def _only_talks_about(statement: Statement, answer: str) -> bool:
    """Whether prose that follows "the answer is" is about the answer and does not state it."""
    lead = _first_sentence(statement.text)[:24]
    return not re.search(r"\d|\\|\$", lead) and has_words(lead) and bool(re.search(r"\d", answer))


def _interpret(statement: Statement, wanted: str) -> str | None:
    """What a stated answer says, less the prose around it; None if it says nothing readable."""
    content = _as_ratio(statement.text[:_MAX_ANSWER_CHARS], wanted)
    sentence = content if statement.is_formula else _first_sentence(content)
    whole = normalize_formula(sentence) if statement.is_formula else normalize_answer(sentence)
    if _CLOCK_TIME.fullmatch(wanted) and (times := list(_CLOCK_TIME.finditer(whole))):
        return _first_time(whole, times)
    whole = _OPTION_LETTER.sub("", whole)
    if not whole:
        return None
    if is_same_spelling(whole, wanted):
        return wanted
    if read_quantity(whole) or not has_words(whole):
        return whole if re.search(r"[\w\\]", whole) else None
    if re.match(r"(?:not|n't)\b", whole):
        return None
    if statement.is_explicit and _says_more(content, sentence):
        return _last_expression(content, wanted)
    for part in (_CONTINUATION.sub("", whole), whole.rpartition("=")[2], _COPULA.sub("", whole)):
        part = part.strip(" .,;:")
        if part and part != whole and (read_quantity(part) or not has_words(part)):
            return part
    return _from_prose(whole)


def _says_more(content: str, sentence: str) -> bool:
    """Whether an answer is a worked solution: its first sentence has several numbers, and is not
    all of it."""
    numbers = [n for n in _NUMBER.findall(normalize_unicode(sentence)) if n]
    return len(numbers) > 1 and len(content.strip()) > len(sentence.strip()) + 2


def _first_time(text: str, times: list[re.Match[str]]) -> str:
    """The first time of day of a phrase, with those that are offered as alternatives to it."""
    said = times[0][0]
    for previous, time in pairwise(times):
        if not re.fullmatch(r"\s*(?:,|/|-|or|and|to)\s*", text[previous.end() : time.start()]):
            break
        said += f", {time[0]}"
    return said


def _from_prose(text: str) -> str | None:
    """The number of a phrase; of several, all if they are alternatives, else the leading one."""
    numbers = [
        m for m in _NUMBER.finditer(text) if read_quantity(m[0].strip()) and not _is_denied(text, m)
    ]
    if not numbers:
        return None
    if len(numbers) == 1:
        return _with_unit(text, numbers[0])
    between = [text[a.end() : b.start()] for a, b in pairwise(numbers)]
    if any(re.search(r"\bor\b|^\s*(?:,|and)\s*$", gap) for gap in between):
        return ", ".join(m[0].strip() for m in numbers)
    leads = not has_words(text[: numbers[0].start()])
    return _with_unit(text, numbers[0] if leads else _main_number(text, numbers))


def _main_number(text: str, numbers: list[re.Match[str]]) -> re.Match[str]:
    """The last number of the last sentence that is not an aside: `35 miles in 7 days` says 35."""
    start = 0
    for end in _LAST_SENTENCE.finditer(text, 0, numbers[-1].start()):
        start = end.end()
    start = max(start, text.rfind("\n", 0, numbers[-1].start()))
    said = [
        n
        for n in numbers
        if n.start() >= start
        and not _ASIDE.search(text[: n.start()][-30:])
        and not _COMPARED.match(text[n.end() :][:30])
    ]
    return said[-1] if said else numbers[-1]


def _is_denied(text: str, number: re.Match[str]) -> bool:
    return _DENIAL.search(text[: number.start()][-30:]) is not None


def _as_ratio(text: str, wanted: str) -> str:
    return re.sub(r"(\d)\s+to\s+(\d)", r"\1:\2", text) if ":" in wanted else text


def _with_unit(text: str, number: re.Match[str]) -> str:
    rest = re.match(r"\s*(?:%|[A-Za-z]+\b\.?)?", text[number.end() :])
    return (number[0] + (rest[0] if rest else "")).strip()


def _first_sentence(content: str) -> str:
    """Up to the end of the sentence or line; a display formula is taken whole."""
    if display := _DISPLAY.match(content):
        return display[1] or display[2]
    line = content.strip().partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return line[: end.start()] if end else line


def _last_expression(text: str, wanted: str) -> str | None:
    """What a text without a stated answer ends with: a formula, else its last number.

    In order: a bold number near the end, the formula that the last sentence ends with, the formula
    or number that stands last.
    """
    tail = _as_ratio(normalize_unicode(text[-_TAIL_CHARS:]).rstrip(), wanted)
    if _CLOCK_TIME.fullmatch(wanted) and (times := _CLOCK_TIME.findall(tail)):
        return normalize_answer(times[-1])
    for bold in reversed(_BOLD.findall("\n".join(tail.split("\n")[-3:]))):
        content = normalize_answer(bold)
        if read_quantity(content) or (re.search(r"\d|\\", content) and not has_words(content)):
            return content
    sentence = _LAST_SENTENCE.split(tail.rpartition("\n")[2])[-1]
    sentence = normalize_answer(_PARENTHESIS.sub(" ", sentence))
    words = _WORDS_BEFORE.match(sentence)
    ending = sentence[words.end() :] if words else sentence
    if words and _DENIAL.search(words[0]):
        ending = ""
    ending = _OPTION_LETTER.sub("", _LEAD.sub("", ending))
    if "=" in ending and not re.search(r",|\bor\b|\band\b", wanted):
        ending = ending.rpartition(", ")[2]
    if re.match(r"(?![\^_]).*(?:\d|\\[a-z])", ending) and not has_words(ending):
        return ending.strip(" .,;:*")
    segments = [
        m for m in _MATH_SEGMENT.finditer(tail) if not has_words(normalize_answer(_content(m)))
    ]
    numbers = list(_NUMBER.finditer(_PARENTHESIS.sub(_blank, tail))) or list(_NUMBER.finditer(tail))
    numbers = [number for number in numbers if not _is_denied(tail, number)]
    if segments and (not numbers or numbers[-1].start() < segments[-1].end()):
        return normalize_answer(_content(segments[-1]))
    return normalize_answer(_with_unit(tail, _main_number(tail, numbers))) if numbers else None


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _content(segment: re.Match[str]) -> str:
    return next(group for group in segment.groups() if group is not None)


def _textual_answer(text: str, stated: list[Statement], wanted: str) -> str | None:
    """For a label in words: the words that are stated, or that the last sentence ends with."""
    for statement in reversed(stated):
        if said := extract_words(_first_sentence(statement.text), wanted):
            return said
    return extract_words(text.rstrip().rpartition("\n")[2], wanted)
