"""Reads plain numbers exactly: `$1,234.50`, `2 1/2 hours`, `7 \\times 10^4`, `50%`.

It works with fractions, not floats. It evaluates no expression, so it is always fast.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from sar.grading.rules.units import Unit, is_unit, read_unit

_MAX_CHARS = 400
_MAX_EXPONENT = 400

# `1,234`, `118 000`, `5`.
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ ]\d{3})+(?![\d/])|\d+)"
DECIMAL = rf"(?:{_INTEGER}(?:\.\d+)?|\.\d+)"
# In order: `2 1/2`, `2\frac{1}{2}`, `\frac{1}{2}`, `7 \times 10^4`, `1/2`, `7e4`, `5`. What stands
# before the underscore in a group's name is its meaning (see `_compute_value`).
_NUMBER = rf"""
    (?P<whole_text>\d+) (?:\s+(?:and\s+)?|-(?=\d+/)) (?P<num_mixed>\d+) \s*/\s* (?P<den_mixed>\d+)
  | (?P<whole_tex>\d+) \s*(?:and\s+)? \\frac\{{\s*(?P<num_tex>\d+)\s*\}}\{{\s*(?P<den_tex>\d+)\s*\}}
  | \\frac\{{\s*(?P<num_frac>[+-]?\s*{DECIMAL})\s*\}}\{{\s*(?P<den_frac>[+-]?\s*{DECIMAL})\s*\}}
  | (?P<num_mantissa>{DECIMAL}) \s*(?:\\times|\\cdot|\*|x)\s* 10\s*\^\s*
        (?:\{{\s*(?P<exp_braced>[+-]?\d+)\s*\}}|(?P<exp_bare>[+-]?\d+))
  | (?P<num_slash>{DECIMAL}) \s*/\s* (?P<den_slash>{DECIMAL})
  | (?P<num_e>{DECIMAL}) [eE] (?P<exp_e>[+-]?\d+) (?![a-zA-Z\d])
  | (?P<num_plain>{DECIMAL})
"""
_CURRENCY = r"(?:US\s?\$|\$|€|£|¥|₹|USD|EUR|GBP|Rs\.?)"
_QUANTITY = re.compile(
    rf"""(?P<sign>[+-]?)\s*(?P<currency>{_CURRENCY})?\s*(?P<inner_sign>-?)\s*(?:{_NUMBER})
    (?P<scale>\s*(?:hundred|thousand|million|billion|trillion)\b)?
    (?P<tail>.*)""",
    re.VERBOSE | re.DOTALL,
)
# `0.\overline{3}` (math-fractions_decimals-017).
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_PERCENT = re.compile(r"\s*(?:%|percent\b|per cent\b)")
_WORDS = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "  # noqa: SIM905
    "fifteen sixteen seventeen eighteen nineteen twenty".split()
)
_TENS = {
    word: 10 * index
    for index, word in enumerate(
        ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2
    )
}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
           "trillion": 10**12}  # fmt: skip
_CENT = read_unit("cents")
_CURRENCIES = {
    symbol: read_unit(name)
    for name, symbols in {"dollars": ("$", "US$", "USD"), "euros": ("€", "EUR")}.items()
    for symbol in symbols
}
# After a currency: `€40k`.
_MAGNITUDES = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9}


@dataclass(frozen=True)
class Quantity:
    """A plain number with its percent sign and unit."""

    value: Fraction
    is_percent: bool = False
    unit: Unit | None = None
    """The unit after the number; None if there is none that we know."""
    num_decimals: int | None = None
    """Digits after the decimal point, or None if the number has no decimal point."""

    def __str__(self) -> str:
        number = str(self.value) if self.value.denominator.bit_length() < 99 else "a long fraction"
        return f"{number}{'%' if self.is_percent else ''} {self.unit or ''}".strip()


def read_quantity(text: str) -> Quantity | None:
    """Reads a normalised text that is one number, perhaps with a currency, unit or words after it.

    None for any other text: an expression, words before the number, a second number.
    """
    text = text.strip()
    if text.startswith("(") and text.endswith(")") and "," not in text:
        text = text[1:-1].strip()
    if len(text) > _MAX_CHARS:
        return None
    if (number := _read_number_word(text.casefold())) is not None:
        return Quantity(Fraction(number))
    if repeating := _REPEATING.fullmatch(text):
        return Quantity(_read_repeating_decimal(*repeating.groups()))
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    tail = match["tail"]
    magnitude = _MAGNITUDES.get(tail.strip(), 1) if match["currency"] else 1
    if magnitude > 1:
        tail = ""
    percent = _PERCENT.match(tail)
    unit = tail[percent.end() :] if percent else tail
    value = _compute_value(match) if is_unit(unit) else None
    if value is None:
        return None
    value *= magnitude
    if match["scale"]:
        value *= _SCALES[match["scale"].strip()]
    if (match["sign"] == "-") != (match["inner_sign"] == "-"):
        value = -value
    plain = match["num_plain"] or ""
    num_decimals = len(plain.partition(".")[2]) if "." in plain else None
    known_unit = read_unit(unit) or _CURRENCIES.get(match["currency"] or "")
    return Quantity(value, percent is not None, known_unit, num_decimals)


def _read_number_word(text: str) -> int | None:
    """Reads `seven`, `twenty-five`; None for any other text."""
    tens, _, ones = text.replace(" ", "-").partition("-")
    if tens in _TENS and (not ones or ones in _WORDS[1:10]):
        return _TENS[tens] + (_WORDS.index(ones) if ones else 0)
    return _WORDS.index(text) if text in _WORDS else None


def is_same_quantity(label: Quantity, answer: Quantity) -> bool:
    """Whether two quantities are equal: exactly, except for percent signs, units and rounding.

    A percent sign may be missing: `50%` equals 50 and 0.5. A decimal with at least six significant
    digits may be rounded: `0.333333` equals 1/3. Of two different known units, one is converted if
    both measure the same: 120 minutes equal 2 hours.
    """
    if label.unit and answer.unit and label.unit != answer.unit:
        is_same_kind = label.unit.measures == answer.unit.measures
        return is_same_kind and label.value * label.unit.size == answer.value * answer.unit.size
    if set(_list_values(label, answer)) & set(_list_values(answer, label)):
        return True
    return _rounds_to(label, answer) or _rounds_to(answer, label)


def _list_values(quantity: Quantity, other: Quantity) -> list[Fraction]:
    """Returns the values a quantity may stand for if the other one has no percent sign or unit."""
    if quantity.is_percent and not other.is_percent:
        # `35%` is 0.35 (math-percent-009), or 35 as the answer to "what percent". But `0.35%` is
        # not 0.35 (math-percent-010).
        unmarked = [quantity.value] if abs(quantity.value) >= 1 else []
        return [*unmarked, quantity.value / 100]
    if quantity.unit == _CENT and not other.unit:
        return [quantity.value, quantity.value / 100]
    return [quantity.value]


def _rounds_to(exact: Quantity, rounded: Quantity) -> bool:
    """Whether `rounded` is `exact` as a decimal of at least six significant digits."""
    digits = rounded.num_decimals
    if digits is None or exact.num_decimals is not None or exact.is_percent != rounded.is_percent:
        return False
    unit = Fraction(1, 10**digits)
    if exact.value % unit == 0:
        return False  # it needs no rounding
    if exact.value * rounded.value < 0 or abs(rounded.value) < 10**5 * unit:
        return False
    offset = abs(exact.value) - abs(rounded.value)
    return -unit <= 2 * offset and offset < unit  # rounded, or cut off


def _compute_value(match: re.Match[str]) -> Fraction | None:
    """Returns whole + num / den * 10^exp; None if it is no number, or too large."""
    groups = match.groupdict()
    parts = {name.partition("_")[0]: text for name, text in groups.items() if text is not None}
    exponent, denominator = int(parts.get("exp", 0)), _read_decimal(parts.get("den", "1"))
    if abs(exponent) > _MAX_EXPONENT or denominator == 0:
        return None
    fraction = _read_decimal(parts["num"]) / denominator * Fraction(10) ** exponent
    if "whole" in parts and fraction >= 1:
        return None  # `72 2/2` is a sum and no mixed number
    return int(parts.get("whole", 0)) + fraction


def _read_repeating_decimal(sign: str, whole: str, fixed: str, repeated: str) -> Fraction:
    start = Fraction(f"{whole or 0}.{fixed or 0}")
    tail = Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed))
    return -(start + tail) if sign else start + tail


def _read_decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[,\s]", "", text))
