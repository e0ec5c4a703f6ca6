"""Splits an answer into a list, set, tuple, interval or union, whose brackets and order matter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

from sar.grading.rules.quantities import read_quantity

_MAX_PARTS = 64
_MAX_SIGNS = 3

_OPENING, _CLOSING = "([{", ")]}"
# `\{1, 2\}` (math-sets-004), `{2, 3, 5}`.
_SET = re.compile(r"\\\{(.*)\\\}|\{(.*)\}")
# `x \in` in `x \in [2,3]` (math-intervals-005).
_MEMBER = re.compile(
    r"\s*(?:[a-zA-Z](?:_\{?\w+\}?)?|\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\))\s*\\in(?![a-z])\s*"
)
# Separates the parts of a list, as a comma does: `2 or 3` (math-roots_lists-002), `18 and 24`,
# `(11,7)or(7,11)`.
_LIST_WORD = re.compile(r"\s*,?\s*(?<![a-zA-Z\\])(?:or|and)(?![a-zA-Z])\s*|\s*\\(?:vee|lor)\s*")
# `114,200` is one number and no list (math-thousands-001).
_THOUSANDS = re.compile(r"(?<![\d,.(\[{])\d{1,3}(?:,\d{3})+(?![\d,])")
# `\pm 2` is the list `2, -2` (math-plus_minus-001).
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])")
_INEQUALITY_VARIABLE = re.compile(r"(?:[a-zA-Z]|\\[a-z]+)(?:_\{?\w+\}?)?(?:\([a-z]\))?")
_RELATION = re.compile(r"\\(?:le|ge|ne)(?![a-z])|<=|>=|<|>")
# `=`, but not in `<=` or `!=`.
_EQUALS = re.compile(r"(?<![<>!=\\])=(?!=)")


@dataclass(frozen=True)
class Structure:
    """The parts of an answer.

    `brackets` is "()", "[)" and so on for a tuple or interval, "{}" for a set, "U" for a union, and
    "" for a list without brackets or a single value.
    """

    brackets: str
    parts: tuple[str | Structure, ...]
    variable: str = ""
    """The variable of an inequality that was read as an interval."""

    @property
    def leaves(self) -> list[str]:
        """The values in all parts, in order."""
        found: list[str] = []
        for part in self.parts:
            found.extend(part.leaves if isinstance(part, Structure) else [part])
        return found

    @property
    def is_unordered(self) -> bool:
        return self.brackets in ("", "{}")


def read_structure(text: str) -> Structure:
    """Splits a normalised answer into its parts; a single value is a list of one.

    `(x, y) = (1, 2)` becomes the list `x = 1, y = 2`, and `x=1, y=2; x=3, y=4` a list of lists.
    """
    text = _MEMBER.sub("", text.strip(), count=1).strip()
    if named := _read_named_tuple(text):
        return named
    if interval := _read_inequality(text):
        return interval
    unions = split_outside(text, r"\cup")
    if len(unions) > 1:
        return Structure("U", tuple(map(read_structure, unions)))
    if (braced := _SET.fullmatch(text)) and _is_closed(braced[1] or braced[2] or ""):
        return Structure("{}", _split_list(braced[1] or braced[2] or ""))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _is_closed(text[1:-1]):
        inner = split_outside(text[1:-1], ",")
        if len(inner) > 1:
            return Structure(text[0] + text[-1], tuple(part.strip() for part in inner))
    alternatives = [p.strip() for p in split_outside(_LIST_WORD.sub(" ; ", text), ";") if p.strip()]
    if len(alternatives) > 1 and all("," in p and "=" in p for p in alternatives):
        return Structure("", tuple(map(read_structure, alternatives)))
    return Structure("", _split_list(text))


def split_sides(text: str) -> list[str]:
    """Returns the sides of an equation or of a chain of equations; one side without `=`."""
    return [side for side in map(str.strip, split_outside(text, _EQUALS)) if side] or [""]


def split_outside(text: str, separator: str | re.Pattern[str]) -> list[str]:
    """Splits a text at each separator that is outside brackets."""
    pattern = re.escape(separator) if isinstance(separator, str) else separator
    parts, depth, start, counted = [], 0, 0, 0
    for match in re.finditer(pattern, text):
        between = text[counted : match.start()]
        depth += sum(map(between.count, _OPENING)) - sum(map(between.count, _CLOSING))
        counted = match.start()
        if depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def _read_named_tuple(text: str) -> Structure | None:
    """Reads `(x, y) = (1, 2)` as a list of equations."""
    sides = split_sides(text)
    if len(sides) != 2 or not all(s[:1] in ("(", "[") and s[-1:] in (")", "]") for s in sides):
        return None
    names, values = ([part.strip() for part in split_outside(side[1:-1], ",")] for side in sides)
    if len(names) != len(values) or len(names) < 2:
        return None
    return Structure("", tuple(f"{n} = {v}" for n, v in zip(names, values, strict=True)))


def _split_list(text: str) -> tuple[str, ...]:
    """Returns the elements of a list; one with `\\pm` counts as two."""
    if read_quantity(text):
        return (text,)
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    parts = []
    for part in split_outside(_LIST_WORD.sub(" , ", text).replace(";", ","), ","):
        parts += [p.strip().lstrip("+ ") for p in _expand_signs(part) if p.strip()]
    return tuple(parts[:_MAX_PARTS])


def _expand_signs(part: str) -> list[str]:
    """Returns the values of a part with `\\pm`: two for one of them, four for two."""
    signs = _PLUS_MINUS.findall(part)
    if not signs or len(signs) > _MAX_SIGNS:
        return [part]
    pieces = _PLUS_MINUS.split(part)
    return [
        "".join(piece + sign for piece, sign in zip(pieces, (*chosen, ""), strict=True))
        for chosen in product("+-", repeat=len(signs))
    ]


def _read_inequality(text: str) -> Structure | None:
    """Reads `1 < x \\le 2` as (1, 2], `x \\ge 3` as [3, infinity), and two with `or` as a union."""
    relations = _RELATION.findall(text)
    if not relations or r"\ne" in relations:
        return None
    pieces = re.split(r"\s+or\s+", text)
    if len(pieces) > 1:
        parts = [part for piece in pieces if (part := _read_inequality(piece))]
        return Structure("U", tuple(parts)) if len(parts) == len(pieces) else None
    sides = [side.strip() for side in _RELATION.split(text)]
    is_variable = [_INEQUALITY_VARIABLE.fullmatch(side) is not None for side in sides]
    is_greater = [relation in (">", ">=", r"\ge") for relation in relations]
    is_closed = [relation in ("<=", ">=", r"\le", r"\ge") for relation in relations]
    if len(sides) == 2 and is_variable[0] != is_variable[1]:
        is_variable_first = is_variable[0]
        bound = sides[1] if is_variable_first else sides[0]
        variable = sides[0] if is_variable_first else sides[1]
        if is_greater[0] == is_variable_first:
            return Structure("[)" if is_closed[0] else "()", (bound, r"\infty"), variable)
        return Structure("(]" if is_closed[0] else "()", (r"-\infty", bound), variable)
    if len(sides) == 3 and is_variable[1] and is_greater[0] == is_greater[1]:
        if is_greater[0]:
            sides, is_closed = sides[::-1], is_closed[::-1]
        brackets = ("[" if is_closed[0] else "(") + ("]" if is_closed[1] else ")")
        return Structure(brackets, (sides[0], sides[2]), sides[1])
    return None


def _is_closed(text: str) -> bool:
    """Whether each bracket in a text is closed in it, and opened in it."""
    depth = 0
    for char in text:
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth < 0:
            return False
    return depth == 0
