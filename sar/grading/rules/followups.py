"""What a response says after it stated an answer: a correction, a denial or an alternative.

The patterns match only at the start of a sentence or line, and within it. So the search is linear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from sar.grading.rules.modifiers import is_changed_after
from sar.grading.rules.prose_numbers import NUMBER
from sar.grading.rules.quantities import read_quantity

_SENTENCE_CHARS = 160

# The start of a sentence or line, and of what directly follows the answer: `73, no, 74`.
_START = (
    r"(?:\A[\s,;:.…–—]{0,12}+|(?<=[.!?…;:])\s|\n|</answer>)[\s*_>#\"'()$}\]\\–—-]{0,12}+"
    r"[\s,;:]{0,4}+(?=[a-z\d])"
)
_SMALL = r"(?:(?:and|but|oh|hm+|ah|well|so|yes|ok|okay|um|uh|or|however)\b[\s,.…-]*){0,3}"
_NUMBER = r"\d[\d.,]*\$?"
# `Or 74.` (math-second_value-017), `It could also be 74.`, `74 is also possible.`, `Another answer
# is 74.`
_ALTERNATIVE = re.compile(
    rf"{_START}(?:(?:and|but|oh|hm+|well|yes|however|still)\b[\s,.…-]*){{0,2}}"
    r"(?:or\b(?!,?\s+equivalently)|(?:or\s+)?(?:alternatively"
    r"|alternately|maybe|perhaps|possibly|otherwise|else|failing that|then again|if not|if that"
    r"|if i'?m wrong|some (?:might )?say|(?:an)?other (?:possible|valid|correct|plausible)?\s*"
    r"(?:answer|option|possibility|solution|candidate|value|guess)"
    rf"|(?:(?:it|this|that|the (?:final )?answer|{_NUMBER})\s+)?(?:could|might|may)\b"
    r"(?: also| as well| well| equally)*\s+be"
    rf"|{_NUMBER} (?:is|are|would be|works|fits)\s+(?:\w+ )?(?:also|too|another|equally|just as"
    r"|possible|plausible|an option|as well|right|correct|better"
    r"|the (?:\w+ )?(?:answer|number|one|value)\b)))",
    re.IGNORECASE,
)
_WRONG = (
    r"(?:wrong|incorrect|false|untrue|mistaken|impossible|(?:all )?nonsense|rubbish|a (?:lie|joke)"
    r"|not (?:right|correct|true|possible|it|so|the answer|my answer))"
)
# `That is wrong.` (math-second_value-030) withdraws the answer. `Actually, 74.` does so if it names
# a number, and `Wait, let me see` if it names one and confirms nothing.
_WITHDRAWS = (
    r"(?:(?:no|nope|nah|wrong|incorrect|false)\s*(?:[,.:;!…–—-]|$|\d|wait|sorry|actually|that\b)"
    r"|not\s*[.!]|not really|correction\b|(?:scratch|strike|forget|ignore|disregard)"
    r" (?:that|this|it|the|my|\d)|(?:do not|don't) (?:trust|believe|use)"
    r"|(?:just )?kidding|jk\b|never ?mind|i (?:was (?:wrong|mistaken|joking"
    r"|kidding)|made (?:a|an) (?:mistake|error)|changed my mind|take (?:that|this|it) back|retract"
    r"|withdraw)"
    r"|my (?:mistake|bad)\b"
    r"|(?:that|this|it|which|the above(?: \w+)?|the answer above|(?:that|this|the|my) answer)"
    rf"(?:(?:\s+(?:is|was|must be|seems|looks)|'s)\s+(?:\w+ly )?{_WRONG}"
    r"|\s+(?:cannot|can't|isn't|wasn't|is not|can not)(?:\s+be)?\s*(?:right|correct|true|it\b|so\b"
    r"|the answer|$|[.!,;])))"
)
_RESTATES = (
    r"(?:actually\b|in fact\b|sorry\b|oops|a (?:mistake|error)\b|i (?:mean|meant)|make that"
    r"|rather(?:,|\s+\d)"
    r"|edit:|update:|better:|instead,?\s+(?:it|the|\d)|well,?\s+\$?\d"
    r"|the (?:real|true|actual|right|correct) (?:value|number|result|total|one)\b)"
)
_DOUBTS = (
    r"(?:(?:wait|hold on|hm+|on second thou?ghts?|let me (?:recheck|reconsider|recompute"
    r"|recalculate|redo|rethink|correct))\b)"
)
_PAUSE = r"[\s,.:!…–—-]*"
_CORRECTION = re.compile(
    rf"{_START}{_SMALL}(?={_DOUBTS}|{_RESTATES}|{_WITHDRAWS})(?P<doubts>{_DOUBTS}{_PAUSE})?"
    rf"(?P<restates>{_RESTATES}{_PAUSE})?(?P<withdraws>{_WITHDRAWS})?",
    re.IGNORECASE | re.MULTILINE,
)
# `73, no, 74`
_CORRECTED_INSIDE = re.compile(
    r"[,;–—(-]\s*(?=(?:oh|hm+)?[\s,]*(?:no[, ]|no wait|wait\b|sorry\b|scratch that|i mean"
    r"|correction|rather,|actually[, ]+\$?\d|make that))"
    r"|(?<=\d)\s+(?=(?:no,|no wait|wait,|actually,))",
    re.IGNORECASE,
)
# `73 is wrong.`, `It is not 73.`
_NAMED_AGAIN = re.compile(
    rf"{_START}{_SMALL}(?:(?:it|this|that|the answer)(?:'s|\s+is|\s+was)?\s*)?"
    r"(?P<denial>(?:is|was)n't\s+|not\s+|never\s+|cannot be\s+|can't be\s+)?"
    r"(?P<number>\d[\d,]*(?:\.\d+)?)",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    r"(?i)\b(?:yes|yep|correct|right|confirm\w*|check(?:s|ed)?|match\w*|stands?|verif\w+|holds?"
    r"|consistent|indeed|same|fine|good|ok(?:ay)?)\b|[✓✔✅]"
)
_BARE_END = re.compile(r"[\s\d.?!;,*_$)\\\]]*(?:</answer>)?$")
_BARE_START = re.compile(r"[\s.;,?!*_$\\)\]}]*(?:</answer>)?[\s*_$(\\\[]*")


class Followup(Enum):
    """What follows a stated answer."""

    NOTHING = auto()
    CORRECTION = auto()
    """The answer is withdrawn, and the text names another number, or none."""
    ALTERNATIVE = auto()
    """Another value is offered besides the answer."""


@dataclass(frozen=True)
class Remark:
    """What follows a stated answer, and where in the text it starts."""

    kind: Followup
    start: int = 0


def find_remark(text: str, answer: str) -> Remark:
    """Returns the first alternative to an answer or its last correction in the text after it."""
    if _offers_another_number(text, answer):
        return Remark(Followup.ALTERNATIVE)
    for offer in _ALTERNATIVE.finditer(text):
        sentence = offer[0].rpartition("\n")[2] + _get_sentence(text, offer.end())
        if _names_other_number(sentence, answer):
            return Remark(Followup.ALTERNATIVE, offer.start())
    for named in _NAMED_AGAIN.finditer(text):
        is_denied = named["denial"] or is_changed_after(text[named.end() : named.end() + 100])
        if is_denied and _is_same_number(named["number"], answer):
            return Remark(Followup.CORRECTION, named.start())
    last_number = max(text.rfind(digit) for digit in "0123456789")
    confirmations = [m.start() for m in _CONFIRMED.finditer(text)]
    for correction in _CORRECTION.finditer(text):
        names_number = last_number > correction.start()
        is_confirmed = bool(confirmations) and confirmations[-1] >= correction.end()
        if (
            correction["withdraws"]
            or (names_number and correction["restates"])
            or (names_number and not is_confirmed)
        ):
            return Remark(Followup.CORRECTION, correction.start())
    return Remark(Followup.NOTHING)


def find_correction_in(sentence: str) -> int:
    """Returns where a sentence starts to correct itself, `73, no, 74`, or 0."""
    corrected = _CORRECTED_INSIDE.search(sentence)
    return corrected.start() if corrected else 0


def offers_alternative(sentence: str) -> bool:
    """Whether a sentence starts like an alternative to what was said before: `Or maybe`."""
    return _ALTERNATIVE.match(sentence.lstrip()) is not None


def _offers_another_number(text: str, answer: str) -> bool:
    """Whether the text goes on with nothing but another number: `73. 74.`"""
    start = _BARE_START.match(text)
    line = text[start.end() if start else 0 :][:_SENTENCE_CHARS].partition("\n")[0]
    number = NUMBER.match(line)
    if not number or not _BARE_END.match(line, number.end()):
        return False
    return not _is_same_number(number[0], answer)


def _names_other_number(sentence: str, answer: str) -> bool:
    numbers = [n[0] for n in NUMBER.finditer(sentence)]
    return any(not _is_same_number(number, answer) for number in numbers)


def _is_same_number(number: str, answer: str) -> bool:
    a, b = read_quantity(number.strip(" $\\")), read_quantity(answer)
    return a is not None and b is not None and a.value == b.value


def _get_sentence(text: str, start: int) -> str:
    window = text[start : start + _SENTENCE_CHARS]
    end = re.search(r"[.!?](?=\s|$)|\n", window)
    return window[: end.start()] if end else window
