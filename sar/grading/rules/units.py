"""Units after a number: which text is one, and its canonical name."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = {
    "millimeter": "mm", "centimeter": "cm", "decimeter": "dm", "meter": "m", "kilometer": "km",
    "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "yard": "yd", "mile": "mi",
    "milligram": "mg", "gram": "g", "kilogram": "kg", "kilo": "kg", "ton": "t", "tonne": "t",
    "pound": "lb", "ounce": "oz", "milliliter": "ml", "liter": "l", "litre": "l",
    "metre": "m", "centimetre": "cm", "kilometre": "km", "millimetre": "mm",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "day": "day",
    "week": "week", "month": "month", "year": "year", "degree": "deg", "cent": "cent",
    "dollar": "dollar", "buck": "dollar", "euro": "euro", "radian": "rad", "gallon": "gal",
}  # fmt: skip
_ABBREVIATIONS = frozenset(_UNITS.values()) | {
    "mph", "kph", "kmh", "rpm", "hz", "khz", "mhz", "kw", "kj", "cal", "kcal", "pa", "st", "nd",
    "rd", "th", "am", "pm", "cl", "dl", "sq", "cu", "pts",
    "usd", "eur", "gb", "mb", "kb", "tb", "ms", "cc", "ha", "lbs", "hrs", "mins", "secs", "yrs",
}  # fmt: skip

# Units of one letter, after a space; in lower case, only these may follow the number directly.
_LETTERS = frozenset("WJNVACFK")
_LOWER_LETTERS = frozenset("mgshlt")

# Units that can be converted: what they measure, and how many of its smallest unit they are.
_SIZES = {
    unit: (dimension, Fraction(size))
    for dimension, sizes in {
        "time": {"s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800},
        "metric length": {"mm": 1, "cm": 10, "dm": 100, "m": 1000, "km": 10**6},
        "imperial length": {"in": 1, "ft": 12, "yd": 36, "mi": 63360},
        "mass": {"mg": 1, "g": 1000, "kg": 10**6, "t": 10**9},
        "volume": {"ml": 1, "cl": 10, "dl": 100, "l": 1000},
        "money": {"cent": 1, "dollar": 100},
    }.items()
    for unit, size in sizes.items()
}

# Text that may follow a number: `apples`, `m/s`, `ft ^2`, `°C`.
_TAIL = re.compile(r"(?:[A-Za-z€£¥₹°µ'.()/%,;:?\s-]|\^\s*[23]|\^\s*\{[23]\})*")
_FIRST_WORD = re.compile(r"[A-Za-zµ]+")
# A second number follows: `or 6`, `, 6`, `to $6`.
_CONJUNCTION = re.compile(
    r"\s*(?:,|;|/|\bor\b|\band\b|\bto\b|-)\s*(?:\$|\\|[+-]?\d)", re.IGNORECASE
)
# A calculation follows: `5 times 2` is not 5 of the unit "times".
_OPERATION = re.compile(
    r"\b(?:times|plus|minus|over|squared|cubed|mod|modulo|factorial|choose|multiplied|divided|added"
    r"|subtracted|raised|to the power|and a half|(?:more|less|fewer|greater|smaller|larger) than"
    r"|short of|(?:percent|%) of|or so|or)\b",
    re.IGNORECASE,
)
# `45 miles per hour` equals `45 mph` (second-m2-unit-166).
_SPEED = re.compile(
    r"\s*(mi|miles?|km|kilomet(?:er|re)s?)(?:\s+per\s+hour|\s*/\s*h(?:r|our)?)\b", re.I
)
# The unit at the end of an expression: `24\pi cubic inches` (second-m2-unit-152).
_UNIT_WORDS = re.compile(
    r"(?<=[\w})])\s+(?:(?:square|cubic|sq|cu)\.?\s+)?(?:(?:units?|"
    + "|".join(unit for unit in sorted({*_UNITS, *_ABBREVIATIONS} - {"in"}) if len(unit) > 1)
    + r")s?(?:\s*\^\s*\{?[23]\}?)?(?:\s+per\s+|\s*/\s*|\s+|$)){1,3}$",
    re.IGNORECASE,
)


_POWER_WORDS = frozenset({"sq", "cu"})
_POWER = re.compile(r"\b(?:square|sq|cubic|cu)\b|\^\s*\{?[23]", re.IGNORECASE)


def is_unit(text: str) -> bool:
    """Whether the text after a number is a unit or words, so that the number is the whole value."""
    if not text:
        return True
    if not _TAIL.fullmatch(text) or _CONJUNCTION.match(text) or _OPERATION.search(text):
        return False
    first = _FIRST_WORD.match(text.lstrip())
    if first is None:
        return not re.search(r"[^\s.,;:?()'%€£¥₹]", text)
    # A letter or a word without a space must be a known unit: `5cm` and `5 m`, not `5x` or `5 x`.
    word = first[0]
    if len(word) == 1:
        return word in _LOWER_LETTERS or (word in _LETTERS and text[0] in " °")
    if text[0].isspace() or text[0] in "-/":
        return True
    return word.casefold() in _ABBREVIATIONS or word.casefold().rstrip("s") in _UNITS


def canonicalize_unit(text: str) -> str:
    """Returns the canonical name of the first known unit in the text after a number, or "".

    A square or cubic unit has its power: `cm^2` for `square centimeters`.
    """
    if speed := _SPEED.match(text):
        return "mph" if speed[1].casefold().startswith("mi") else "kph"
    words: list[str] = [
        w.casefold().strip(".,;:!?()") for w in re.split(r"[\s/-]+|\^\s*\{?[23]\}?", text)
    ]
    for word in filter(None, words[:3]):
        singular = word.rstrip("s") if word not in _UNITS else word
        if word in _ABBREVIATIONS - _POWER_WORDS:
            return word + _find_power(text)
        if singular in _UNITS:
            return _UNITS[singular] + _find_power(text)
    return ""


def convert(value: Fraction, unit: str, wanted: str) -> Fraction | None:
    """Converts a value to another unit; None if the two measure different things."""
    base, _, power = unit.partition("^")
    wanted_base, _, wanted_power = wanted.partition("^")
    if power != wanted_power and power and wanted_power:
        return None
    if base == wanted_base:
        return value
    if base not in _SIZES or wanted_base not in _SIZES or power != wanted_power:
        return None
    if _SIZES[base][0] != _SIZES[wanted_base][0]:
        return None
    return value * (_SIZES[base][1] / _SIZES[wanted_base][1]) ** int(power or 1)


def _find_power(text: str) -> str:
    power = _POWER.search(text)
    return (
        ""
        if power is None
        else "^3"
        if power[0].casefold() in ("cu", "cubic") or "3" in power[0]
        else "^2"
    )


def strip_unit(text: str) -> str:
    """Returns a normalised expression without the unit after it."""
    return _UNIT_WORDS.sub("", text)
