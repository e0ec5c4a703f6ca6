"""Compares plain numbers, times of day, ratios, and numbers with a base."""

from __future__ import annotations

import re
from math import gcd

from sar.grading.rules.quantities import is_same_quantity, read_quantity
from sar.grading.verdict import Comparison

# `1011_2`, `110_{6}` (second-m2-base-259), `(4210)_5`, `21 (base 5)`.
BASED = re.compile(
    r"\(?([0-9A-Fa-f]+)\)?\s*(?:_\s*\{?\s*(\d+|[a-z]+)\s*\}?|\(?(?:in )?base (\d+)\)?)"
)
RATIO = re.compile(r"\d{1,9}(?:\s*:\s*\d{1,9})+")
# `37m`: a unit if the label is a number; else m may be a variable.
_DIRECT_UNIT = re.compile(r"(\d)([mgs](?:\s*\^\s*\{?[23]\}?)?)$")
# `4:30`, `4:30 p.m.` (math-clock_times-002); `4 p.m.`
_CLOCK = re.compile(
    r"(\d{1,2})\s*:\s*(\d{2})(?!\d)\s*(?:([ap])\.?\s*m\b\.?)?[a-z ]{0,12}", re.IGNORECASE
)
_CLOCK_HOUR = re.compile(r"(\d{1,2})()\s*([ap])\.?\s*m\b\.?[a-z ]{0,12}", re.IGNORECASE)


def compare_ratios(label: str, answer: str) -> Comparison | None:
    """Compares two ratios such as `2:3`; None if label or answer is none."""
    if not RATIO.fullmatch(label) or not RATIO.fullmatch(answer):
        return None
    is_equal = _reduce_ratio(label) == _reduce_ratio(answer)
    return Comparison(is_equal, f"the ratios are {'' if is_equal else 'not '}the same")


def compare_numbers(label: str, answer: str) -> Comparison | None:
    """Compares numbers, times of day and numbers with a base; None if label or answer is none."""
    if not re.search("[a-zA-Z]", label):
        answer = _DIRECT_UNIT.sub(r"\1 \2", answer)
    quantities = read_quantity(label), read_quantity(answer)
    if quantities[0] and quantities[1]:
        is_equal = is_same_quantity(quantities[0], quantities[1])
        return Comparison(
            is_equal, f"{quantities[1]} {'is' if is_equal else 'is not'} {quantities[0]}"
        )
    times = read_clock(label), read_clock(answer)
    if times[0] and times[1]:
        is_equal = _is_same_clock(times[0], times[1])
        return Comparison(is_equal, f"the times are {'the same' if is_equal else 'different'}")
    if quantities[0] and times[1]:
        is_equal = quantities[0].value == times[1][0] and times[1][1] == 0
        return Comparison(is_equal, "the answer is a time of day")
    based = BASED.fullmatch(label), BASED.fullmatch(answer)
    if based[1] and not based[0] and _get_base(based[1]) != "10":
        return Comparison(False, f"the answer is in base {_get_base(based[1])}, the label is not")
    if based[0] and re.fullmatch(r"[0-9A-Fa-f]+", answer):
        is_equal = based[0][1].upper() == answer.upper()
        return Comparison(is_equal, "the answer leaves out the base")
    if based[0] and based[1]:
        is_same_base = _get_base(based[0]) == _get_base(based[1])
        is_equal = is_same_base and based[0][1].upper() == based[1][1].upper()
        return Comparison(is_equal, f"the digits or bases are {'' if is_equal else 'not '}the same")
    return None


def _reduce_ratio(text: str) -> list[int]:
    terms = [int(term) for term in text.split(":")]
    divisor = gcd(*terms) or 1
    return [term // divisor for term in terms]


def _get_base(based: re.Match[str]) -> str:
    return str(based[2] or based[3])


def read_clock(text: str) -> tuple[int, int, str] | None:
    """Returns hour, minute, and "a", "p" or "" (am, pm, neither) of a time of day."""
    match = _CLOCK.fullmatch(text) or _CLOCK_HOUR.fullmatch(text)
    return (int(match[1]), int(match[2] or 0), (match[3] or "").lower()) if match else None


def _is_same_clock(label: tuple[int, int, str], answer: tuple[int, int, str]) -> bool:
    if label[2] and answer[2]:
        return label == answer
    if label[:2] == answer[:2]:
        return True  # one of them has no a.m. or p.m. (math-clock_times-007)
    on_24_hours = [  # 4:30 p.m. is 16:30 (math-clock_times-006)
        (hour % 12 + (12 if half == "p" else 0) if half else hour, minute)
        for hour, minute, half in (label, answer)
    ]
    return on_24_hours[0] == on_24_hours[1]
