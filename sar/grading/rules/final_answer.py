"""Extracts the final answer of a mathematical response: the last stated answer, else its ending.

The label's form says what to look for (a time, a ratio, words), but never which value.
"""

from __future__ import annotations

import re

from sar.grading.rules.answers import Statement, find_statements
from sar.grading.rules.box_context import open_box
from sar.grading.rules.chinese import translate_chinese
from sar.grading.rules.ending import find_ending, rewrite_ratios
from sar.grading.rules.exact import extract_words
from sar.grading.rules.followups import (
    Followup,
    find_correction_in,
    find_remark,
    offers_alternative,
)
from sar.grading.rules.modifiers import (
    denies_statement,
    is_changed_after,
    is_changed_before,
    is_denied_before,
)
from sar.grading.rules.normalize import normalize_answer, normalize_formula, normalize_unicode
from sar.grading.rules.phrases import UNCLEAR, read_phrase
from sar.grading.rules.prose_numbers import NUMBER
from sar.grading.rules.quantities import read_quantity
from sar.grading.rules.rivals import has_rival_number
from sar.grading.rules.words import has_words, is_textual, normalize_sentence
from sar.grading.verdict import Source

_MAX_ANSWER_CHARS = 2000
_CONTEXT_CHARS = 200

# `~~72~~ 73` (math-changed_after-023).
_STRUCK_OUT = re.compile(r"~~[^~\n]{1,200}~~|<(?:s|del)>[^<\n]{1,200}</(?:s|del)>")
# A display formula; its last delimiter may be cut off.
_DISPLAY = re.compile(r"\\\[(.+?)(?:\\\]|\Z)|\$\$(.+?)(?:\$\$|\Z)", re.DOTALL)
# Not the full stops of `3.5`, `p.m.` and `A.`
_SENTENCE_END = re.compile(
    r"(?<![ap]\.m)(?<!\b[a-zA-Z])(?<!\\)[.!?](?=\s|$|\*)|(?<=[ap]\.m)\.(?=\s+[A-Z]|$)"
)
_SENTENCE_START = re.compile(r"[.!?][*_)\"']*\s|\n|\\\\")
# Before a box: a list mark, an arrow, or a dash between words, which are no operators.
_NO_OPERATOR = re.compile(
    r"^[\s>|]*(?:[-*•+]\s+)?|</?\w+>|[=-]+>|(?<=[a-zA-Z*]{2})\s+-(?=\s[\s$]*\Z)"
)
# A factor in front of a box, or one value of several: `2\boxed{73}`, `72 or \boxed{73}`.
_BEFORE_BOX = re.compile(
    r"(?:\d|(?<![a-zA-Z\\])[b-zB-Z])[$]?\s?\Z|\d[\s$}]*(?:\b(?:or|and|vs|to|through)\b|[/&])[\s$]*\Z"
    r"|(?<![=<>+*/-]\s)(?<!\S)\$?\d+\$?\s*[,;]\s*\$?\Z|\bor\b[\s$]*\Z"
    r"|\d.*\b(?:maybe|perhaps|possibly|alternatively)\b\W*\Z"
    r"|\\[dt]?frac\s*(?:\{[^{}]*\})?\s*\{?\s*\Z",
    re.IGNORECASE,
)
# An operation on a box: `\boxed{73}^2`, `\boxed{7}3`, but not `\boxed{73}^\circ`.
_AFTER_BOX = re.compile(
    r"\d|[\s$]*(?:hundred|thousand|million|billion|trillion|k)\b"
    r"|[\s$]*[^\w\s.,;:!?$(){}*'\"\\=-]\s?\d"
    r"|[\s$]*(?:[-+/]\s*[$\\]?(?:\d|[a-z](?![a-z]))|\*\s*\d|\^\s*\{?\s*(?:\d|[a-z])"
    r"|\\(?:times|cdot|div|pm|mp)(?![a-z])|!(?=[\s$]*[=\\]))"
)
# `73, ...` lists more values than it names.
_OPEN_LIST = re.compile(r"\d[\s$]*,[\s$]*(?:\.\.|…)")
# A line that only goes on with the answer: `y = -5`, `i.e. (x, y) = (2, -5)`.
_NEXT_LINE = re.compile(r"[.,$\\)\]]*\s*\n\s*([^\n]+)")
_NAMED_LINE = re.compile(r"\s*[$\\(]*[a-zA-Z](?:_\w)?\s*=\s*[^\n=]{1,60}")
_THAT_IS = re.compile(r"\s*(?:i\.e\.|that is|or|so)[,:]?\s+(?=[$\\(]*\([a-z])", re.IGNORECASE)


def extract_answer(text: str, label: str) -> tuple[str, Source] | None:
    """Returns the answer of a response, normalised, and where it was found; None if it has none.

    A response that denies or changes the value that it names has no answer, nor has one that offers
    another one. For a label in words, the answer is the stated words, or those of the last line.

    Args:
        text: the response without its thinking.
        label: the label's answer, normalised.
    """
    if is_textual(label):
        return _extract_words(text, label)
    text = translate_chinese(_STRUCK_OUT.sub(" ", text))
    denied: list[str] = []
    statements = find_statements(text)
    for index, statement in reversed(list(enumerate(statements))):
        reading = _read_statement(statement, text, label)
        if reading is None:
            continue
        answer, end = reading
        if answer == UNCLEAR and _is_only_denied(statement):
            denied.append(_get_first_sentence(statement.text)[0])
            continue
        if index and offers_alternative(_get_lead(text, statement)):
            return None
        found = _apply_remark(answer, text[end:], label)
        return (found, statement.source) if found and not _is_denied(found, denied) else None
    ending = find_ending(text, label)
    return (ending, Source.ENDING) if ending and not _is_denied(ending, denied) else None


def _extract_words(text: str, label: str) -> tuple[str, Source] | None:
    """Returns the words that a response states, or else those of its last line."""
    stated = reversed(find_statements(text))
    sources = [(_get_first_sentence(s.text)[0], s.source) for s in stated]
    sources.append((text.rstrip().rpartition("\n")[2], Source.ENDING))
    return next(
        ((words, at) for text, at in sources if (words := extract_words(text, label))), None
    )


def _apply_remark(answer: str, rest: str, label: str) -> str | None:
    """Returns a stated answer, or what a later correction puts in its place; None if it hedges."""
    remark = find_remark(rest, answer)
    if remark.kind is Followup.CORRECTION:
        return find_ending(rest[remark.start :], label)
    return None if remark.kind is Followup.ALTERNATIVE else answer or None


def _is_only_denied(statement: Statement) -> bool:
    """Whether a statement only says what the answer is not: `the answer is not 72`."""
    number = NUMBER.search(statement.text)
    is_prose = statement.source is Source.PROSE
    return is_prose and number is not None and is_denied_before(statement.text[: number.start()])


def _is_denied(answer: str, denied: list[str]) -> bool:
    numbers = [read_quantity(n[0].strip()) for text in denied for n in NUMBER.finditer(text)]
    return (found := read_quantity(answer)) is not None and found in numbers


def _read_statement(statement: Statement, text: str, label: str) -> tuple[str, int] | None:
    """Returns a statement's answer and where it ends in the text; None if it states no value.

    The answer is `UNCLEAR` if the words around a value change it.
    """
    if statement.source is Source.BOX:
        answer = _read_box(statement, text, label)
        return None if answer is None else (answer, statement.end)
    before = _get_lead(text, statement)
    content = statement.text[:_MAX_ANSWER_CHARS]
    sentence, length = _get_first_sentence(content)
    if corrected := find_correction_in(sentence):
        sentence, length = sentence[:corrected], corrected
    end = statement.start + length
    phrase = normalize_sentence(rewrite_ratios(sentence, label))
    is_open_list = _OPEN_LIST.search(sentence) and "dots" not in label
    if is_open_list or (sentence[:1].isalpha() and offers_alternative(sentence)):
        return UNCLEAR, end
    if statement.source is Source.PROSE:
        if denies_statement(before):
            return UNCLEAR, end
        if _only_talks_about(phrase):
            return None
    elif is_changed_before(before):
        return UNCLEAR, end
    elif has_words(phrase) and _is_worked_solution(content, sentence):
        return find_ending(content, label) or UNCLEAR, statement.end
    answer = read_phrase(phrase, label)
    if answer is None:
        return None
    answer, block_length = _add_lines(answer, text[end:])
    return answer, end + block_length


def _read_box(box: Statement, text: str, label: str) -> str | None:
    """Returns a box's content, `UNCLEAR` if words in or around the box change it, or None."""
    content = box.text[:_MAX_ANSWER_CHARS]
    before = normalize_unicode(_get_lead(text, box))
    after = normalize_unicode(text[box.end : box.end + _CONTEXT_CHARS])
    formula = content
    if opened := open_box(before, content, after):
        formula, before, after = opened.formula, opened.before, opened.after
    if not formula or (_OPEN_LIST.search(formula) and "dots" not in label):
        return UNCLEAR
    answer = read_phrase(normalize_formula(rewrite_ratios(formula, label)), label)
    if not answer:
        return answer
    after_sentence = content[_get_first_sentence(content)[1] :]
    if find_remark(after_sentence, answer).kind is not Followup.NOTHING:
        return UNCLEAR
    return UNCLEAR if _is_box_changed(before, after.removeprefix("}")) else answer


def _is_box_changed(before: str, after: str) -> bool:
    """Whether the sentence around a box changes its value: `half of \\boxed{73}`."""
    return bool(
        is_changed_before(before)
        or _BEFORE_BOX.search(before)
        or _AFTER_BOX.match(after)
        or is_changed_after(after, before)
        or has_rival_number(after)
    )


def _only_talks_about(phrase: str) -> bool:
    """Whether prose after "the answer is" describes the answer: `is found by adding 5 and 6`."""
    lead = phrase[:24]
    return not re.search(r"\d|\\|\$", lead) and has_words(lead) and bool(re.search(r"\d", phrase))


def _is_worked_solution(content: str, sentence: str) -> bool:
    """Whether a stated answer is a calculation: several sentences, several numbers in the first."""
    numbers = [n for n in NUMBER.findall(normalize_unicode(sentence)) if n]
    return len(numbers) > 1 and len(content.strip()) > len(sentence.strip()) + 2


def _add_lines(answer: str, rest: str) -> tuple[str, int]:
    """Adds the lines after `x = 2` that go on with `y = -5`, up to a line that sums them up.

    Returns the answer and the length of these lines (math-multi_line_final-002).
    """
    length = 0
    while _NAMED_LINE.fullmatch(answer.rpartition(", ")[2]):
        line = _NEXT_LINE.match(rest, length)
        if line is None:
            break
        if total := _THAT_IS.match(line[1]):
            return normalize_answer(line[1][total.end() :]), line.end()
        if not _NAMED_LINE.fullmatch(line[1].rstrip()):
            break
        answer, length = f"{answer}, {normalize_answer(line[1])}", line.end()
    return answer, length


def _get_lead(text: str, statement: Statement) -> str:
    """Returns the part of its sentence that stands before a statement."""
    before = text[max(0, statement.lead_end - _CONTEXT_CHARS) : statement.lead_end]
    ends = list(_SENTENCE_START.finditer(before))
    return _NO_OPERATOR.sub(" ", before[ends[-1].end() :] if ends else before)


def _get_first_sentence(content: str) -> tuple[str, int]:
    """Returns the first sentence, line or display formula of a text, and where it ends."""
    if display := _DISPLAY.match(content):
        return display[1] or display[2], display.end()
    line = content.partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return (line[: end.start()], end.start()) if end else (line, len(line))
