"""Units after a number: which text is one, what it measures, and how large it is."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

# Name, what it measures, and its size in the first unit that measures the same.
_BASE: dict[str, tuple[str, int | Fraction]] = {
    "m": ("m", 1), "in": ("m", Fraction(254, 10_000)), "ft": ("m", Fraction(3048, 10_000)),
    "yd": ("m", Fraction(9144, 10_000)), "mi": ("m", Fraction(1_609_344, 1000)),
    "s": ("s", 1), "min": ("s", 60), "h": ("s", 3600), "day": ("s", 86_400), "week": ("s", 604_800),
    "month": ("month", 1), "year": ("month", 12), "g": ("g", 1), "t": ("g", 10**6),
    "lb": ("lb", 1), "oz": ("lb", Fraction(1, 16)), "l": ("l", 1), "gal": ("gal", 1),
    "cent": ("cent", 1), "dollar": ("cent", 100), "euro": ("euro", 1), "deg": ("deg", 1),
    "rad": ("rad", 1), "J": ("J", 1), "W": ("W", 1), "eV": ("eV", 1), "N": ("N", 1),
    "Pa": ("Pa", 1), "V": ("V", 1), "A": ("A", 1), "Hz": ("Hz", 1), "T": ("T", 1),
    "mol": ("mol", 1), "cal": ("cal", 1), "B": ("B", 1), "rpm": ("rpm", 1),
}  # fmt: skip
_PREFIXES = {
    "n": Fraction(1, 10**9), "µ": Fraction(1, 10**6),
    "m": Fraction(1, 1000), "c": Fraction(1, 100), "d": Fraction(1, 10), "k": Fraction(10**3),
    "M": Fraction(10**6), "G": Fraction(10**9),
}  # fmt: skip
_PREFIXED = frozenset("m g s l J W eV N Pa V A Hz T mol cal B".split())  # noqa: SIM905
_WORDS = {
    "meter": "m", "metre": "m", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft",
    "yard": "yd", "mile": "mi", "gram": "g", "kilo": "kg", "ton": "t", "tonne": "t", "pound": "lb",
    "lbs": "lb", "ounce": "oz", "liter": "l", "litre": "l", "second": "s", "sec": "s", "secs": "s",
    "minute": "min", "mins": "min", "hour": "h", "hr": "h", "hrs": "h", "yr": "year", "yrs": "year",
    "degree": "deg", "buck": "dollar", "usd": "dollar", "eur": "euro", "radian": "rad",
    "gallon": "gal", "joule": "J", "watt": "W", "newton": "N", "pascal": "Pa", "volt": "V",
    "ampere": "A", "hertz": "Hz", "L": "l", "kwh": "kWh",
}  # fmt: skip
_LONG_PREFIXES = {
    "milli": "m", "centi": "c", "deci": "d", "kilo": "k", "mega": "M", "micro": "µ", "nano": "n",
}  # fmt: skip
_COMPOUND = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "cc": "cm^3"}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
# What may follow a number without a space, besides units: `5th`, `5am`.
_SUFFIXES = frozenset("st nd rd th am pm k cc mph kph kmh".split())  # noqa: SIM905
# Units of one letter; they need a space before them.
_LETTERS = frozenset("mgshlWJNVCFKT")
_AFTER_LETTER = re.compile(
    r"[\s°]*[A-Za-z]\s*(?:\^\s*\{?\s*-?[1-4]\s*\}?)?(?:\s*(?:/|per)\s*[a-zµ]{1,6}\b[\s\d^{}-]*)?[\s.,;:?!)]*"
)
# Words of two letters that may follow a number.
_SHORT_WORDS = _SUFFIXES | frozenset("of in to at on by as an is be we he it so up no us".split())  # noqa: SIM905
# Words that are mathematics, and no unit.
_FUNCTIONS = frozenset("sin cos tan cot sec csc log exp sqrt".split())  # noqa: SIM905
# Words before the unit that change nothing: `12 more hours`.
_MAX_ADJECTIVES = 2

# Text that may follow a number: `apples`, `m/s`, `ft ^2`, `°C`.
_TAIL = re.compile(r"(?:[A-Za-z€£¥₹°µ'.()/%,;:?\s-]|\^\s*-?[1-4]|\^\s*\{-?[1-4]\})*")
_FIRST_WORD = re.compile(r"[A-Za-zµ]+")
_PIECE = re.compile(r"([A-Za-zµ]+)\.?\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?|/")
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
# The unit at the end of an expression: `24\pi cubic inches` (second-m2-unit-152).
_UNIT_WORDS = re.compile(
    r"(?<=[\w})])\s+(?:(?:square|cubic|sq|cu)\.?\s+)?(?:(?:units?|"
    + "|".join(sorted(word for word in {*_WORDS, *_BASE, *_COMPOUND, "km", "cm", "mm", "kg", "ml"}
                      if len(word) > 1 and word != "in"))
    + r")s?(?:\s*\^\s*\{?[23]\}?)?(?:\s+per\s+|\s*/\s*|\s+|$)){1,3}$",
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """A unit such as `cm^2` or `miles per hour`."""

    size: Fraction
    """In the first units that measure the same."""
    measures: frozenset[tuple[str, int]]
    """What it measures, with powers: {("m", 1), ("s", -1)} for a speed."""

    def __str__(self) -> str:
        return " ".join(
            f"{name}^{power}" if power != 1 else name for name, power in sorted(self.measures)
        )


def is_unit(text: str) -> bool:
    """Whether the text after a number is a unit or words, so that the number is the whole value."""
    if not text:
        return True
    if not _TAIL.fullmatch(text) or _CONJUNCTION.match(text) or _OPERATION.search(text):
        return False
    first = _FIRST_WORD.match(text.lstrip())
    if first is None:
        return not re.search(r"[^\s.,;:?()%€£¥₹]", text)
    word = first[0]
    if len(word) == 1:  # `5 m`, but not `5m` or `5 m - n`: m may be a variable
        return text[0] in " °" and word in _LETTERS and _AFTER_LETTER.fullmatch(text) is not None
    if len(word) == 2:
        return _read_word(word) is not None or word.casefold() in _SHORT_WORDS
    if text[0].isspace() or text[0] in "-/":
        return word.casefold() not in _FUNCTIONS
    return word.casefold() in _SUFFIXES or _read_word(word) is not None


def read_unit(text: str) -> Unit | None:
    """Reads the unit in the text after a number: `cm ^2`, `square inches`, `miles per hour`.

    None if there is none that we know. Reading ends at the first word after it that is no unit.
    """
    size, measures = Fraction(1), Counter[str]()
    sign, power, num_skipped = 1, 1, 0
    for piece in _PIECE.finditer(text):
        word, exponent = piece[1], int(piece[2] or 1)
        if word is None or word == "per":
            sign = -1
        elif word == "in" and re.match(r"\s*[a-zA-Z]", text[piece.end() :]):
            break  # `73 in total`: a preposition
        elif word.casefold() in _POWERS:
            power = _POWERS[word.casefold()]
        elif (unit := _read_word(word)) is None:
            num_skipped += 1
            if measures or num_skipped > _MAX_ADJECTIVES:
                break
        else:
            total = sign * power * exponent
            size *= unit.size**total
            for name, own in unit.measures:
                measures[name] += own * total
            sign, power = 1, 1
    known = frozenset((name, power) for name, power in measures.items() if power)
    return Unit(size, known) if measures else None


def strip_unit(text: str) -> str:
    """Returns a normalised expression without the unit after it."""
    return _UNIT_WORDS.sub("", text)


def _read_word(word: str) -> Unit | None:
    """Reads one word as a unit: `cm`, `kilometers`, `keV`, `mph`."""
    if compound := _COMPOUND.get(word.casefold()):
        return read_unit(compound)
    for spelling in (word, word.casefold(), word.rstrip("s"), word.casefold().rstrip("s")):
        name = _WORDS.get(spelling, spelling)
        for long, short in _LONG_PREFIXES.items():
            if name.startswith(long) and name[len(long) :] in _WORDS:
                name = short + _WORDS[name[len(long) :]]
        if name in _BASE:
            measure, size = _BASE[name]
            return Unit(Fraction(size), frozenset({(measure, 1)}))
        if name[:1] in _PREFIXES and name[1:] in _PREFIXED:
            measure, size = _BASE[name[1:]]
            return Unit(size * _PREFIXES[name[0]], frozenset({(measure, 1)}))
    return None
