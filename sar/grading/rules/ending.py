"""Finds the answer that a text without a stated answer ends with: a formula, else a number."""

from __future__ import annotations

import re

from sar.grading.rules.followups import Followup, find_remark, offers_alternative
from sar.grading.rules.modifiers import is_changed_after, is_changed_before
from sar.grading.rules.normalize import normalize_answer, normalize_unicode
from sar.grading.rules.prose_numbers import (
    NUMBER,
    SENTENCE_BREAK,
    add_unit,
    choose_main_number,
    is_denied,
    write_minus,
)
from sar.grading.rules.quantities import read_quantity
from sar.grading.rules.rivals import has_rival_number
from sar.grading.rules.words import has_words, normalize_sentence

_TAIL_CHARS = 2000

CLOCK_TIME = re.compile(
    r"\d{1,2}(?:\s*:\s*\d{2}(?!\d)(?:\s*[ap]\.?m\b)?|\s*[ap]\.?m\b)", re.IGNORECASE
)
# Commands that lay lines out: `\begin{aligned} 4 \end{aligned}` (math-boxed-034).
LAYOUT = re.compile(r"\\(?:begin|end)\{(?:aligned|align|gathered|gather|split|equation)\*?\}")
# The letter in `(C) 8` or `8 (C)`, where a multiple-choice item's label is the option's value.
_OPTION_LETTER = re.compile(r"^\(?[A-E]\)[\s.:]+(?=\S)|(?<=\S)\s+\([A-E]\)$")
_ONLY_LETTERS = re.compile(r"(?:[\s(),]|[A-E](?![a-zA-Z])|and\b|or\b)+")

# `leave **6** free seats out of 13` says 6 (math-sentence_many_numbers-003).
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
# All words before the formula that ends a sentence: `The side is 6√2` (math-unicode-008).
_WORDS_BEFORE = re.compile(
    r".*(?<![\\a-zA-Z])(?!(?:or|and|sqrt|sin|cos|tan|log|ln|pi)\b)[a-zA-Z]{2,}(?:'[a-z]+)?[\s:,]+",
    re.DOTALL,
)
# `i.e.` (math-negatives-005) and `A:` (math-answer_prefix-025) before an answer.
_LEAD = re.compile(
    r"\A(?:[\s=…:]|\.(?!\d))*(?:i\.e\.|[A-Za-z]\s*:(?!\s*[A-Z]\s*=))?(?:[\s=]|\.(?=\s))*"
)
# A remark: `(12 days at 20 minutes make 240)` (math-sentence_many_numbers-008) or `(m²)`
# (math-units-009), but not `(2, 3)`, `3(1+\sqrt{5})` or the argument in `\tan(x)`.
_PARENTHESIS = re.compile(
    r"\((?=[^()]*(?:\\text|\\math|(?<![\\a-zA-Z])(?!sqrt|sin|cos|tan|log)[a-zA-Z]{3}))[^()]{1,300}\)"
    r"|(?<=\s)\(\s*(?:[cdk]?m|mm|k?g|mg|m?l|ft|in|yd|mi|lb|s|h)\s*(?:\^\s*\{?[23]\}?|[²³])?\s*\)"
)
# `$...$`, `$$...$$`, `\(...\)`, `\[...\]` (math-tuples-013).
_MATH_SEGMENT = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$([^$\n]{1,300}?)(?<!\\)\$(?!\d)", re.DOTALL
)
# `14 is the answer.` offers no other value, unlike `14 is also right.`
_IS_ANSWER = re.compile(r"\W*\d[\d.,]*\$?\*{0,2} is (?:the |my )?(?:final |correct )?answer\b")
# The text is cut off if it ends in the first of several steps (math-truncated-002).
_FIRST_STEP = re.compile(r"\s*(?:\*\*)?(?:step )?1[.):]\s*\S*\s*[A-Za-z]", re.IGNORECASE)
# `It might be 73`, `Maybe 73`, `I tried 73` (math-second_value-012): it does not commit itself.
_HEDGE = re.compile(
    r"\b(?:(?:could|might|may)\s+(?:\w+\s+)?(?:be|equal)|maybe|perhaps|possibly|otherwise|else|try"
    r"|trying|tried|tested|testing|suppose|assume|assuming)\W*$|\d\W+(?:and\s+)?then\W*$",
    re.IGNORECASE,
)
# `from 70 to 73`: neither is the answer.
_RANGE = re.compile(r"\d\S*(?:\s+[a-z]+)?\s+(?:to|through|and|or|vs)\s+[$*]*$", re.IGNORECASE)
# The numbers of `71\n72\n73` (math-second_value-013), of `71? 72? 73?`.
_SENTENCES = re.compile(r"(?<=[.!?])(?<!\\!)\s+|\n+")
_ALONE = re.compile(r"[\s$*(\\-]*(\d[\d,]*(?:\.\d+)?)[\s$*).!?\\]*")
_LIST_CHARS = 300


def find_ending(text: str, label: str) -> str | None:
    """Returns the answer that a text ends with, normalised, or None.

    In this order: the last time of day, if the label is one; a bold number or formula in the last
    three lines; the formula that ends the last sentence; the text's last formula in math delimiters
    or last number, whichever is later.

    Args:
        label: the label's answer, normalised.
    """
    tail = write_minus(normalize_unicode(text[-_TAIL_CHARS:]).rstrip())
    tail = LAYOUT.sub(" ", rewrite_ratios(tail, label))
    if CLOCK_TIME.fullmatch(label) and (times := CLOCK_TIME.findall(tail)):
        return normalize_answer(times[-1])
    if _states_nothing(tail):
        return None
    if len(candidates := _find_candidates(tail)) > 1:
        return ", ".join(candidates)
    last_lines = "\n".join(tail.split("\n")[-3:])
    for bold in reversed(list(_BOLD.finditer(last_lines))):
        content = normalize_answer(bold[1])
        if read_quantity(content) or (re.search(r"\d|\\", content) and not has_words(content)):
            number = NUMBER.match(content)
            inside = content[number.end() :] if number and read_quantity(content) else ""
            before, after = last_lines[: bold.start()], last_lines[bold.end() :]
            return None if _is_changed(before, inside + after) else content
    formula = _find_final_formula(tail, label)
    return _find_last_expression(tail) if formula is None else formula or None


def drop_option_letter(text: str) -> str:
    """Returns an answer without its option's letter: 8 for `(C) 8`. `(A), (C)` stays."""
    return text if _ONLY_LETTERS.fullmatch(text) else _OPTION_LETTER.sub("", text)


def rewrite_ratios(text: str, label: str) -> str:
    """Writes `3 to 4` as `3:4` if the label is a ratio."""
    return re.sub(r"(\d)\s+to\s+(\d)", r"\1:\2", text) if ":" in label else text


def _states_nothing(tail: str) -> bool:
    """Whether a text ends with a question, an alternative or the first step of several."""
    line = tail.rpartition("\n")[2]
    sentence = SENTENCE_BREAK.split(line)[-1]
    if _FIRST_STEP.match(line) or re.search(r"\d[\s$*)]*\?[\s*]*$", sentence):
        return True
    if _IS_ANSWER.match(sentence):
        return False
    return offers_alternative(sentence) and NUMBER.search(sentence) is not None


def _find_candidates(tail: str) -> list[str]:
    """Returns the numbers that a text ends with, if each is a sentence or line of its own."""
    found: list[str] = []
    for sentence in reversed(_SENTENCES.split(tail[-_LIST_CHARS:])):
        number = _ALONE.fullmatch(sentence)
        if number is None:
            break
        found.append(number[1])
    return list(dict.fromkeys(reversed(found)))


def _is_changed(before: str, after: str) -> bool:
    """Whether the words around a value in the last lines change it, or offer another one."""
    lead = before.rpartition("\n")[2]
    return (
        is_changed_before(lead)
        or _RANGE.search(lead[-60:]) is not None
        or _HEDGE.search(lead[-60:]) is not None
        or is_changed_after(after, lead)
        or has_rival_number(after)
        or find_remark(after, "").kind is not Followup.NOTHING
    )


def _find_final_formula(tail: str, label: str) -> str | None:
    """Returns the formula that the last sentence ends with, "" if it is a guess, or None."""
    sentence = SENTENCE_BREAK.split(tail.rpartition("\n")[2])[-1]
    sentence = _PARENTHESIS.sub(lambda m: m[0] if is_changed_after(m[0]) else " ", sentence)
    sentence = normalize_sentence(sentence)
    words = _WORDS_BEFORE.match(sentence)
    if words and is_denied(words[0], words.end()):
        return None
    ending = drop_option_letter(_LEAD.sub("", sentence[words.end() :] if words else sentence))
    if "=" in ending and not re.search(r",|\bor\b|\band\b", label):
        ending = ending.rpartition(", ")[2]
    if re.match(r"(?![\^_]).*(?:\d|\\[a-z])", ending) and not has_words(ending):
        lead = words[0] if words and sentence.endswith(words[0] + ending) else ""
        number = NUMBER.match(ending)
        is_hedged = _HEDGE.search(lead[-60:]) or _RANGE.search(lead[-60:])
        is_changed = is_changed_before(lead) or (
            number and is_changed_after(ending[number.end() :], lead)
        )
        return "" if is_hedged else None if is_changed else ending.lstrip(" ,;:*").rstrip(" .,;:*")
    return None


def _find_last_expression(tail: str) -> str | None:
    """Returns the last formula in math delimiters or the last number, whichever is later."""
    segments = [
        m for m in _MATH_SEGMENT.finditer(tail) if not has_words(normalize_answer(_get_content(m)))
    ]
    without_remarks = _PARENTHESIS.sub(lambda remark: " " * len(remark[0]), tail)
    numbers = list(NUMBER.finditer(without_remarks)) or list(NUMBER.finditer(tail))
    numbers = [number for number in numbers if not is_denied(tail, number.start())]
    if segments and (not numbers or numbers[-1].start() < segments[-1].end()):
        if _is_changed(tail[: segments[-1].start()], tail[segments[-1].end() :]):
            return None
        return normalize_answer(_get_content(segments[-1]))
    if not numbers:
        return None
    number = choose_main_number(tail, numbers)
    if _is_changed(tail[: number.start()], tail[number.end() :]):
        return None
    return normalize_answer(add_unit(tail, number))


def _get_content(segment: re.Match[str]) -> str:
    return next(group for group in segment.groups() if group is not None)
