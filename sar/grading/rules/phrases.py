"""Reads the value that a stated answer names: `She has 18 dollars left` says `18 dollars`.

The phrase is read completely. Words that change the value, or a second value, leave no answer.
"""

from __future__ import annotations

import re
from itertools import pairwise

from sar.grading.rules.ending import CLOCK_TIME, LAYOUT, drop_option_letter
from sar.grading.rules.modifiers import (
    is_changed_after,
    is_changed_before,
    is_denied_before,
    is_harmless_lead,
)
from sar.grading.rules.prose_numbers import (
    NUMBER,
    add_unit,
    choose_main_number,
    is_denied,
    write_minus,
)
from sar.grading.rules.quantities import read_quantity
from sar.grading.rules.rivals import has_rival, is_alternative
from sar.grading.rules.units import strip_unit
from sar.grading.rules.words import has_words, is_same_spelling

UNCLEAR = ""
"""Reading of a phrase that names a value, but does not state it: `half of 73`."""

# `$96, which would be split into three parts of 32` says 96 (math-answer_prefix-029).
_CONTINUATION = re.compile(
    r"\s*(?:,|;|--|—|\()?\s*(?:\b(?:because|since|which|where|as|so that|given)\b).*", re.DOTALL
)
# `The maximum is 73, attained at x = 2` (math-stated-080).
_AT_POINT = re.compile(
    r"(?<=\d),?\s+(?:\w+\s+)?(?:at|when|for|if|with)\s+\$?[a-z]\s*=.*", re.DOTALL
)
# All up to the last verb or colon: `the number of eggs is 5`.
_UP_TO_VERB = re.compile(
    r".*(?:\b(?:is|are|equals|be|was|of|has|have|to|get|gets|total)\b|:)\s+", re.DOTALL
)
# Words in front of a value that `has_words` does not count: `It is 73`, `So 73`.
_SHORT_LEAD = re.compile(
    r"\A(?:(?:it|so|is|i|we|he|she|at|to be|i\.e\.|it's)\b[\s,:]*)+(?=[-+$\\(\d])", re.IGNORECASE
)
# `73, not 72 or 74` denies both.
_AND_OR = re.compile(r"\s*(?:,|or|nor|and)\s*")
# Short words without mathematical meaning that change a value: `no 73`.
_DENIED_FORMULA = re.compile(r"\W*(?:no|non)\b", re.IGNORECASE)
# `21 (base 5)`
_BASED = re.compile(r"[0-9A-Fa-f]+\s*\(?(?:in )?base \d+\)?")
# `Option (C) 8`
_OPTION = re.compile(r"\A(?:option|choice)\s+(?=\(?[A-E]\))", re.IGNORECASE)
# `=> 73` (math-stated-021).
_ARROW = re.compile(r"\A(?:=>|->|→|\\(?:Rightarrow|rightarrow|implies|therefore)(?![a-z]))\s*")
# `a = 7, b = 3, so 10a + b = 73`: the last clause counts (math-stated-091).
_CONCLUSION = re.compile(r",\s*(?:and\s+)?(?:so|thus|hence|therefore)\b[\s,]*", re.IGNORECASE)
# A formula and the words after it: `5\sqrt{2} square units`, `2^{10} subsets`.
_COUNTED = re.compile(
    r"(?P<formula>.*?[a-zA-Z\d})!|])\s+(?P<words>[a-zA-Z]{2,}(?:[\s,]+[a-zA-Z]+){0,6}"
    r"(?:\s*\^\s*\{?[23]\}?)?(?:\s*(?:/|per)\s*[a-zA-Z]+(?:\s*\^\s*\{?[23]\}?)?)?)\.?"
)
# Words that make one formula of two, or that relate the value to another.
_RELATING = re.compile(
    r"\b(?:times|plus|minus|over|divided|multiplied|mod|modulo|choose|squared|cubed|factorial|and|or"
    r"|if|when|whenever|unless|provided|where|is|are|was|were|not|to|from|than|but|more|less"
    r"|fewer|base)\b",
    re.IGNORECASE,
)
# What makes a number a part of a formula: an operator, a command or a bracket next to it, or an
# operator after its unit.
_OPERATES_BEFORE = re.compile(
    r"(?:[a-zA-Z]\s?[(\[]|[({\[]\s*\\?[a-z]+|\\[a-zA-Z]+[\s({]*|[_^!*+{|])\s*\Z"
)
_INTRODUCES = re.compile(r"\\(?:approx|sim|simeq|therefore|to|implies|(?:R|r)ightarrow)[\s({]*\Z")
_OPERATES_AFTER = re.compile(
    r"\s*(?:[!^*+/<>{|]|_(?!_))|[(\[]|[a-zA-Z]|\s*\\[a-zA-Z]|\s*-\s*(?:[\d\\(]|[a-z]\b)"
    r"|\s*[a-zA-Z]+(?:\s+[a-zA-Z]+)?\s*(?:\\(?:pm|mp|cdot|times|div)(?![a-z])|[+*^]\s*[\d\\a-z({])"
)
# `73 rounded to the nearest ten` is 70.
_ROUNDED_AWAY = re.compile(
    r"[1-9][\s,(]*rounded (?:up |down |off )?to the nearest (?:ten|hundred|thousand|million)s?\b"
)
# `25 dozen eggs` that are counted in dozens (second-m2-gsm8k-026).
_DOZEN = re.compile(r"\s+dozens?$", re.IGNORECASE)
# `5 times` is 5, but not `5 times 2`.
_TIMES = re.compile(r"(?<=\d)\s+times$", re.IGNORECASE)


def read_phrase(phrase: str, label: str) -> str | None:
    """Returns the value that a normalised phrase states, `UNCLEAR`, or None if it has no value."""
    if CLOCK_TIME.fullmatch(label) and (times := list(CLOCK_TIME.finditer(phrase))):
        return _get_first_time(phrase, times)
    phrase = _simplify(phrase)
    if not phrase:
        return None
    if is_same_spelling(phrase, label):
        return label
    phrase = _SHORT_LEAD.sub("", phrase)
    if _DENIED_FORMULA.match(phrase):
        return UNCLEAR if re.search(r"\d", phrase) else None
    if _BASED.fullmatch(phrase):
        return phrase
    number = NUMBER.match(phrase)
    if (number and is_changed_after(phrase[number.end() :])) or _ROUNDED_AWAY.search(phrase):
        return UNCLEAR
    if not has_words(phrase):
        return phrase if re.search(r"[\w\\]", phrase) else None
    if read_quantity(phrase):
        return phrase
    formula = _drop_unit(phrase)
    if formula is not None:
        return formula
    part = _read_part(phrase)
    return part if part is not None else _read_main_number(phrase)


def _simplify(phrase: str) -> str:
    """Returns a phrase without what only introduces its value or says where it is attained."""
    phrase = drop_option_letter(_OPTION.sub("", LAYOUT.sub("", phrase).strip())).strip()
    for pattern in (_ARROW, _TIMES, _AT_POINT):
        phrase = pattern.sub("", phrase)
    *reasons, conclusion = _CONCLUSION.split(phrase)
    if not reasons or not re.search(r"\d", conclusion):
        return write_minus(phrase)
    return write_minus(conclusion.rpartition("=")[2].strip() or conclusion)


def _drop_unit(phrase: str) -> str | None:
    """Returns a formula without the words after it, or None if the phrase is not such a formula.

    A unit that we know stays, as it can be compared.
    """
    counted = _COUNTED.fullmatch(phrase)
    if counted is None:
        return None
    formula, words = counted["formula"], counted["words"]
    if has_words(formula) or not re.search(r"[\\\d]", formula) or read_quantity(formula):
        return None
    if _RELATING.search(words) or re.search(r"(?:^|[\s,])[a-zA-Z]{2,}(?=\s|$)", formula):
        return None
    if is_changed_after(f" {words}"):
        return UNCLEAR
    return phrase if strip_unit(phrase).strip() == formula else formula


def _read_part(phrase: str) -> str | None:
    """Returns the formula or quantity in a phrase: before a reason, after the last `=` or verb."""
    verb = _UP_TO_VERB.match(phrase)
    spans = (
        (0, _find_reason(phrase)),
        (phrase.rfind("=") + 1, len(phrase)),
        (verb.end() if verb else 0, len(phrase)),
    )
    for start, end in spans:
        lead, part, rest = phrase[:start], phrase[start:end].strip(" .,;:"), phrase[end:]
        if part == phrase:
            continue
        if has_words(part) and not read_quantity(part):
            part = _drop_unit(part) or ""
        if not part:
            continue
        if re.search(r"\d", phrase) and not re.search(r"\d|\\", part):
            continue
        if is_denied_before(lead) or is_alternative(NUMBER.split(lead)[1:]):
            continue
        number = NUMBER.match(part)
        tail = part[number.end() :] + rest if number else rest
        if not is_harmless_lead(lead) or is_changed_after(tail, lead):
            return UNCLEAR
        return part
    return None


def _read_main_number(phrase: str) -> str | None:
    """Returns a phrase's main number; all its numbers if they are alternatives: `5 or 6`."""
    end = _find_reason(phrase)
    found = [m for m in NUMBER.finditer(phrase, 0, end) if read_quantity(m[0].strip())]
    numbers = _drop_denied(phrase, found)
    if not numbers:
        return UNCLEAR if found else None
    main = _choose_number(phrase, numbers)
    index = numbers.index(main)
    gaps = [phrase[a.end() : b.start()] for a, b in pairwise(numbers)]
    if is_alternative(gaps[:index]) or any(map(has_rival, gaps[index:])):
        return ", ".join(m[0].strip() for m in numbers)
    lead, tail = phrase[: main.start()], phrase[main.end() :]
    same = read_quantity(lead.strip(" ("))  # `twelve (12)` (math-number_words-003)
    is_repeated = same is not None and same == read_quantity(main[0].strip())
    if not is_repeated and _is_operand(lead, main[0], tail[: end - main.end()]):
        return phrase
    if not (is_repeated or is_harmless_lead(lead)) or is_changed_after(tail, lead):
        return UNCLEAR
    return _DOZEN.sub("", add_unit(phrase, main))


def _is_operand(lead: str, number: str, tail: str) -> bool:
    """Whether a number belongs to a formula, and is not a value by itself: the 5 of `5! ways`."""
    if _OPERATES_BEFORE.search(lead) and not _INTRODUCES.search(lead):
        return True
    suffix = re.match(r"[a-zA-Z]+(?![\\^_a-zA-Z])", tail)
    if suffix and read_quantity(number.strip() + suffix[0]):
        return False  # `5km`
    return _OPERATES_AFTER.match(tail) is not None


def _find_reason(phrase: str) -> int:
    """Returns where the reason starts that follows a number, or else the phrase's length."""
    reason = _CONTINUATION.search(phrase)
    has_number = reason is not None and re.search(r"\d|\\", phrase[: reason.start()])
    return reason.start() if reason and has_number else len(phrase)


def _drop_denied(phrase: str, numbers: list[re.Match[str]]) -> list[re.Match[str]]:
    """Returns the numbers that a phrase does not deny: of `73, not 72 or 74` the first one."""
    kept: list[re.Match[str]] = []
    denied_end = -1
    for number in numbers:
        is_next = denied_end >= 0 and _AND_OR.fullmatch(phrase[denied_end : number.start()])
        if is_next or is_denied(phrase, number.start()):
            denied_end = number.end()
        else:
            kept.append(number)
    return kept


def _choose_number(phrase: str, numbers: list[re.Match[str]]) -> re.Match[str]:
    """Returns the number after the last `=`, or that a phrase starts with, or the likeliest."""
    results = [n for n in numbers if n.start() > phrase.rfind("=") >= 0]
    if results:
        return results[0]
    is_first = len(numbers) == 1 or not has_words(phrase[: numbers[0].start()])
    return numbers[0] if is_first else choose_main_number(phrase, numbers)


def _get_first_time(text: str, times: list[re.Match[str]]) -> str:
    """Returns a phrase's first time of day, and its alternatives: `4:30 or 5:30` is both."""
    if is_changed_before(text[: times[0].start()]):
        return UNCLEAR
    said = times[0][0]
    for previous, time in pairwise(times):
        if not re.fullmatch(r"\s*(?:,|/|-|or|and|to)\s*", text[previous.end() : time.start()]):
            break
        said += f", {time[0]}"
    return said
