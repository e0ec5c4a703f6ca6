"""Extracts the final answer of a mathematical response: the last stated answer, else its ending.

The label's form says what to look for (a time, a ratio, words), but never which value.
"""

from __future__ import annotations

import re
from itertools import pairwise

from sar.grading.rules.answers import Statement, find_statements
from sar.grading.rules.ending import CLOCK_TIME, OPTION_LETTER, find_ending, rewrite_ratios
from sar.grading.rules.exact import extract_words
from sar.grading.rules.normalize import normalize_answer, normalize_formula, normalize_unicode
from sar.grading.rules.prose_numbers import NUMBER, find_main_number
from sar.grading.rules.quantities import read_quantity
from sar.grading.rules.words import has_words, is_same_spelling, is_textual
from sar.grading.verdict import Source

_MAX_ANSWER_CHARS = 2000

# A display formula; its last delimiter may be cut off.
_DISPLAY = re.compile(r"\\\[(.+?)(?:\\\]|\Z)|\$\$(.+?)(?:\$\$|\Z)", re.DOTALL)
# Not the full stops of `3.5`, `p.m.` and `A.`
_SENTENCE_END = re.compile(
    r"(?<![ap]\.m)(?<!\b[a-zA-Z])[.!?](?=\s|$|\*)|(?<=[ap]\.m)\.(?=\s+[A-Z]|$)"
)
# `$96, which would be split into three parts of 32` says 96 (math-answer_prefix-029).
_CONTINUATION = re.compile(
    r"\s*(?:,|;|--|—|\()?\s*(?:\b(?:because|since|which|where|as|so that|given)\b).*", re.DOTALL
)
# All up to the last verb or colon: `the number of eggs is 5`.
_UP_TO_VERB = re.compile(
    r".*(?:\b(?:is|are|equals|be|was|of|has|have|to|get|gets|total)\b|:)\s+", re.DOTALL
)


def extract_answer(text: str, label: str) -> tuple[str, Source] | None:
    """Returns the answer of a response, normalised, and where it was found; None if it has none.

    For a label in words, the answer is the stated words, or else those of the last line.

    Args:
        text: the response without its thinking.
        label: the label's answer, normalised.
    """
    stated = find_statements(text)
    if is_textual(label):
        sources = [(_get_first_sentence(s.text), s.source) for s in reversed(stated)]
        sources.append((text.rstrip().rpartition("\n")[2], Source.ENDING))
        return next(
            ((words, at) for text, at in sources if (words := extract_words(text, label))), None
        )
    for statement in reversed(stated):
        answer = _read_statement(statement, label)
        if answer is not None and (
            statement.is_explicit or not _only_talks_about(statement, answer)
        ):
            return answer, statement.source
    ending = find_ending(text, label)
    return (ending, Source.ENDING) if ending is not None else None


def _only_talks_about(statement: Statement, answer: str) -> bool:
    """Whether prose after "the answer is" describes the answer: `is found by adding 5 and 6`."""
    lead = _get_first_sentence(statement.text)[:24]
    return not re.search(r"\d|\\|\$", lead) and has_words(lead) and bool(re.search(r"\d", answer))


def _read_statement(statement: Statement, label: str) -> str | None:
    """Returns a stated answer without the prose around it; None if it has no readable answer."""
    content = rewrite_ratios(statement.text[:_MAX_ANSWER_CHARS], label)
    sentence = content if statement.is_formula else _get_first_sentence(content)
    whole = normalize_formula(sentence) if statement.is_formula else normalize_answer(sentence)
    if CLOCK_TIME.fullmatch(label) and (times := list(CLOCK_TIME.finditer(whole))):
        return _get_first_time(whole, times)
    whole = OPTION_LETTER.sub("", whole)
    if not whole:
        return None
    if is_same_spelling(whole, label):
        return label
    if read_quantity(whole) or not has_words(whole):
        return whole if re.search(r"[\w\\]", whole) else None
    if re.match(r"(?:not|n't)\b", whole):
        return None
    if statement.is_explicit and _is_worked_solution(content, sentence):
        return find_ending(content, label)
    parts = (_CONTINUATION.sub("", whole), whole.rpartition("=")[2], _UP_TO_VERB.sub("", whole))
    for part in (part.strip(" .,;:") for part in parts):
        if part and part != whole and (read_quantity(part) or not has_words(part)):
            return part
    return find_main_number(whole)


def _is_worked_solution(content: str, sentence: str) -> bool:
    """Whether a stated answer is a calculation: several sentences, several numbers in the first."""
    numbers = [n for n in NUMBER.findall(normalize_unicode(sentence)) if n]
    return len(numbers) > 1 and len(content.strip()) > len(sentence.strip()) + 2


def _get_first_time(text: str, times: list[re.Match[str]]) -> str:
    """Returns a phrase's first time of day, and its alternatives: `4:30 or 5:30` is both."""
    said = times[0][0]
    for previous, time in pairwise(times):
        if not re.fullmatch(r"\s*(?:,|/|-|or|and|to)\s*", text[previous.end() : time.start()]):
            break
        said += f", {time[0]}"
    return said


def _get_first_sentence(content: str) -> str:
    """Returns the first sentence or line, or the display formula that the text starts with."""
    if display := _DISPLAY.match(content):
        return display[1] or display[2]
    line = content.strip().partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return line[: end.start()] if end else line
