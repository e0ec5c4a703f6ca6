"""Numbers as people write them, read exactly: `$1,234.50`, `2 1/2 hours`, `7 \\times 10^4`, `50%`.

Exact fractions throughout; no expression is evaluated here, so nothing can take long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_DIGITS = 400
_MAX_EXPONENT = 400

INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ ]\d{3})+(?![\d/])|\d+)"
_DECIMAL = rf"(?:{INTEGER}(?:\.\d+)?|\.\d+)"
_NUMBER = rf"""
    (?P<whole>\d+) (?:\s+(?:and\s+)?|-(?=\d+/)) (?P<mixed_num>\d+) \s*/\s* (?P<mixed_den>\d+)
  | (?P<whole_tex>\d+) \s*(?:and\s+)? \\frac\{{\s*(?P<tex_num>\d+)\s*\}}\{{\s*(?P<tex_den>\d+)\s*\}}
  | \\frac\{{\s*(?P<frac_num>[+-]?\s*{_DECIMAL})\s*\}}\{{\s*(?P<frac_den>[+-]?\s*{_DECIMAL})\s*\}}
  | (?P<mantissa>{_DECIMAL}) \s*(?:\\times|\\cdot|\*|x)\s* 10\s*\^\s*
        (?:\{{\s*(?P<exp_braced>[+-]?\d+)\s*\}}|(?P<exp_bare>[+-]?\d+))
  | (?P<num>{_DECIMAL}) \s*/\s* (?P<den>{_DECIMAL})
  | (?P<e_mantissa>{_DECIMAL}) [eE] (?P<e_exp>[+-]?\d+) (?![a-zA-Z\d])
  | (?P<plain>{_DECIMAL})
"""
_CURRENCY = r"(?:US\s?\$|\$|€|£|¥|₹|USD|EUR|GBP|Rs\.?)"
_QUANTITY = re.compile(
    rf"""(?P<sign>[+-]?)\s*(?P<currency>{_CURRENCY})?\s*(?P<inner_sign>-?)\s*(?:{_NUMBER})
    (?P<scale>\s*(?:hundred|thousand|million|billion|trillion)\b)?
    (?P<tail>.*)""",
    re.VERBOSE | re.DOTALL,
)

_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")

_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_PERCENT = re.compile(r"\s*(?:%|percent\b|per cent\b)")
# What may follow a number without making it another number: words, rates, squared units.
_TAIL = re.compile(r"(?:[A-Za-z€£¥₹°µ'.()/%,;:?\s-]|\^\s*[23]|\^\s*\{[23]\})*")
_ATTACHED = re.compile(r"[A-Za-zµ]+")
_CONJUNCTION = re.compile(
    r"\s*(?:,|;|/|\bor\b|\band\b|\bto\b|-)\s*(?:\$|\\|[+-]?\d)", re.IGNORECASE
)

_OPERATION = re.compile(r"\b(?:times|plus|minus|over|squared|cubed|mod)\b", re.IGNORECASE)
_WORDS = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "  # noqa: SIM905
    "fifteen sixteen seventeen eighteen nineteen twenty".split()
)
_MAGNITUDES = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9}

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
    "mph", "kph", "kmh", "rpm", "hz", "khz", "mhz", "w", "kw", "j", "kj", "cal", "kcal", "n", "pa",
    "v", "a", "c", "f", "st", "nd", "rd", "th", "am", "pm", "cl", "dl", "sq", "cu", "pts",
    "usd", "eur", "gb", "mb", "kb", "tb", "ms", "cc", "ha", "lbs", "hrs", "mins", "secs", "yrs",
}  # fmt: skip

_UNIT_WORDS = re.compile(
    r"(?<=[\w})])\s+(?:(?:square|cubic|sq|cu)\.?\s+)?(?:(?:units?|"
    + "|".join(unit for unit in sorted({*_UNITS, *_ABBREVIATIONS} - {"in"}) if len(unit) > 1)
    + r")s?(?:\s*\^\s*\{?[23]\}?)?(?:\s+per\s+|\s*/\s*|\s+|$)){1,3}$",
    re.IGNORECASE,
)
_SPEED = re.compile(
    r"\s*(mi|miles?|km|kilomet(?:er|re)s?)(?:\s+per\s+hour|\s*/\s*h(?:r|our)?)\b", re.I
)


@dataclass(frozen=True)
class Quantity:
    """A plain number with what stands around it."""

    value: Fraction
    is_percent: bool = False
    unit: str = ""
    """Canonical unit when a known one follows the number, else empty."""
    num_decimals: int | None = None
    """Digits after the decimal point, if written with one."""


def read_quantity(text: str) -> Quantity | None:
    """The number a normalised text consists of, with an optional currency, unit and words after it.

    None if the text is anything else: an expression, prose before the number, a second number.
    """
    text = text.strip()
    if text.startswith("(") and text.endswith(")") and "," not in text:
        text = text[1:-1].strip()
    if len(text) > _MAX_DIGITS:
        return None
    if text.casefold() in _WORDS:
        return Quantity(Fraction(_WORDS.index(text.casefold())))
    if repeating := _REPEATING.fullmatch(text):
        return Quantity(_repeating_decimal(*repeating.groups()))
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    tail = match["tail"]
    magnitude = _MAGNITUDES.get(tail.strip(), 1) if match["currency"] else 1
    if magnitude > 1:
        tail = ""
    percent = _PERCENT.match(tail)
    unit_text = tail[percent.end() :] if percent else tail
    if not _is_unit_tail(unit_text):
        return None
    value = _value(match)
    if value is None:
        return None
    value *= magnitude
    if match["scale"]:
        value *= _SCALES[match["scale"].strip()]
    if (match["sign"] == "-") != (match["inner_sign"] == "-"):
        value = -value
    plain = match["plain"] or ""
    decimals = len(plain.partition(".")[2]) if "." in plain else None
    return Quantity(value, percent is not None, _canonical_unit(unit_text), decimals)


def is_same_quantity(label: Quantity, answer: Quantity) -> bool:
    """Whether two numbers say the same: exact, but for percent signs, cents, and long decimals.

    A percent sign may be left out (`50%` is 50 and also 0.5); a decimal of six or more digits is
    taken as rounded; two different known units never match.
    """
    if label.unit and answer.unit and label.unit != answer.unit:
        if {label.unit, answer.unit} != {"cent", "dollar"}:
            return False
        in_cents = [q.value * (100 if q.unit == "dollar" else 1) for q in (label, answer)]
        return in_cents[0] == in_cents[1]
    if set(_readings(label, answer)) & set(_readings(answer, label)):
        return True
    return _rounds_to(label, answer) or _rounds_to(answer, label)


def _readings(quantity: Quantity, other: Quantity) -> list[Fraction]:
    """The values a number can stand for where the other one is written without its mark."""
    if quantity.is_percent and not other.is_percent:
        # `0.35%` for 0.35 is a mistake, `35%` for 35 answers "what percent".
        unmarked = [quantity.value] if abs(quantity.value) >= 1 else []
        return [*unmarked, quantity.value / 100]
    if quantity.unit == "cent" and not other.unit:
        return [quantity.value, quantity.value / 100]
    return [quantity.value]


def _rounds_to(exact: Quantity, rounded: Quantity) -> bool:
    """Whether one is a decimal of six significant digits or more that stands for the other."""
    digits = rounded.num_decimals
    if digits is None or exact.num_decimals is not None or exact.is_percent != rounded.is_percent:
        return False
    unit = Fraction(1, 10**digits)
    if exact.value % unit == 0:
        return False  # it could have been written in full
    return abs(rounded.value) >= 10**5 * unit and abs(exact.value - rounded.value) <= unit


def _value(match: re.Match[str]) -> Fraction | None:
    groups = match.groupdict()
    try:
        for whole, num, den in (
            ("whole", "mixed_num", "mixed_den"),
            ("whole_tex", "tex_num", "tex_den"),
        ):
            if groups[whole] is not None:
                return int(groups[whole]) + Fraction(int(groups[num]), int(groups[den]))
        for num, den in (("frac_num", "frac_den"), ("num", "den")):
            if groups[num] is not None:
                return _decimal(groups[num]) / _decimal(groups[den])
        for mantissa, exponents in (
            ("mantissa", ("exp_braced", "exp_bare")),
            ("e_mantissa", ("e_exp",)),
        ):
            if groups[mantissa] is not None:
                exponent = int(next(groups[e] for e in exponents if groups[e] is not None))
                if abs(exponent) > _MAX_EXPONENT:
                    return None
                return _decimal(groups[mantissa]) * Fraction(10) ** exponent
        return _decimal(groups["plain"])
    except ZeroDivisionError:
        return None


def _repeating_decimal(sign: str, whole: str, fixed: str, repeated: str) -> Fraction:
    start = Fraction(f"{whole or 0}.{fixed or 0}")
    tail = Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed))
    return -(start + tail) if sign else start + tail


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[,\s]", "", text))


def _is_unit_tail(tail: str) -> bool:
    if not tail:
        return True
    if not _TAIL.fullmatch(tail) or _CONJUNCTION.match(tail) or _OPERATION.search(tail):
        return False
    # `5x` and `3i` are expressions, `5cm` and `5 x` written by a person are not alike.
    first = _ATTACHED.match(tail.lstrip())
    if first is None:
        return not re.search(r"[^\s.,;:?()'%/-]", tail)
    word = first[0].casefold()
    if len(word) == 1 or not tail[0].isspace():
        return word in _ABBREVIATIONS or word.rstrip("s") in _UNITS or tail[0] in "-/"
    return True


def strip_unit(text: str) -> str:
    """A normalised expression without the words of a unit after it."""
    return _UNIT_WORDS.sub("", text)


def _canonical_unit(tail: str) -> str:
    if speed := _SPEED.match(tail):
        return "mph" if speed[1].casefold().startswith("mi") else "kph"
    words: list[str] = [
        w.casefold().strip(".,;:!?()") for w in re.split(r"[\s/-]+|\^\{?[23]\}?", tail)
    ]
    for word in filter(None, words[:3]):
        if word in _ABBREVIATIONS:
            return word
        singular = word.rstrip("s") if word not in _UNITS else word
        if singular in _UNITS:
            return _UNITS[singular]
    return ""
