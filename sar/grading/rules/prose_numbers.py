"""Finds the number that a sentence or phrase states as its result, among the others it mentions."""

from __future__ import annotations

import re

from sar.grading.rules.modifiers import is_denied_before
from sar.grading.rules.quantities import DECIMAL

# A time, a ratio, a mixed number, a LaTeX fraction, a power of ten, a fraction or a decimal; the
# last perhaps with pi or a root, as in `12π square inches`.
NUMBER = re.compile(
    r"(?<![\w.^_{\\])(?<![\d)]-)[+-]?(?:\\?\$)?\s?"
    r"(?:\d{1,2}:\d\d(?:\s*[ap]\.?m\b)?|\d+:\d+"
    r"|\d+\s+(?:and\s+)?\d+\s*/\s*\d+|(?:\d+\s*)?\\[dt]?frac\{[^{}]*\}\{[^{}]*\}"
    rf"|{DECIMAL}\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{{?-?\d+\}}?"
    rf"|{DECIMAL}\s*/\s*{DECIMAL}|{DECIMAL}(?:\s*(?:\\pi(?![a-z])|\\sqrt\{{[^{{}}]*\}}))?)"
)
SENTENCE_BREAK = re.compile(r"(?<=[^\d\s][.!?])\s+(?=[A-Z*$\\])|(?<=[.!?])\s+(?=[A-Z])")
# Before a number that is not the result: the 50 of `She gets $17 back from her $50 bill`
# (math-currency-021), the 7 of `35 miles in 7 days`.
_ASIDE = re.compile(
    r"\b(?:in|for|per|at|from|with|by|after|before|every|each|on|over|within|than|out of|instead of"
    r"|unlike|least|most|not|isn't|wasn't|aren't)\s+"
    r"(?:(?:the|her|his|their|its|a|an|our|my|all|every|just|only)\s+)?$",
    re.IGNORECASE,
)
# After a number that is not the result: `14 left, 6 fewer than the 20` (second-m2-gsm8k-042),
# `$160 on pastries, 60 of them small` (second-m2-gsm8k-029).
_COMPARED = re.compile(
    r"\s*(?:\w+\s+)?(?:(?:fewer|more|less|greater) than|of (?:them|these|which))\b"
)
# `The average is minus 10 degrees` (math-negatives-006).
_MINUS_WORD = re.compile(
    r"((?:^|\b(?:is|are|was|equals|be|to)\s|[:=]\s?))\s*(?:minus|negative)\s+(?=[$\\]?\d)",
    re.IGNORECASE,
)


def choose_main_number(text: str, numbers: list[re.Match[str]]) -> re.Match[str]:
    """Returns the last sentence's last number that is not an aside, else its last number."""
    start = 0
    for end in SENTENCE_BREAK.finditer(text, 0, numbers[-1].start()):
        start = end.end()
    start = max(start, text.rfind("\n", 0, numbers[-1].start()))
    candidates = [
        n
        for n in numbers
        if n.start() >= start
        and not _ASIDE.search(text[: n.start()][-30:])
        and not _COMPARED.match(text[n.end() :][:30])
    ]
    return candidates[-1] if candidates else numbers[-1]


def is_denied(text: str, position: int) -> bool:
    """Whether the text before a position denies what follows: `not`, `rather than`."""
    return is_denied_before(text[max(0, position - 100) : position])


def add_unit(text: str, number: re.Match[str]) -> str:
    """Returns a number with the percent sign or word after it: `40 square feet`, `5 km`."""
    rest = re.match(r"\s*(?:%|(?:square |cubic )?[A-Za-z]+\b\.?)?", text[number.end() :])
    return (number[0] + (rest[0] if rest else "")).strip()


def write_minus(text: str) -> str:
    """Writes `is minus 10` as `is -10`."""
    return _MINUS_WORD.sub(r"\1-", text)
