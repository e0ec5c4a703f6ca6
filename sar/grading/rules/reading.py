"""Says in words how the math grader reads a text, for the person who looks into a verdict.

Runs only in a grader process, because parsing an expression can take forever.
"""

from __future__ import annotations

from sar.grading.rules.expressions import read_expression
from sar.grading.rules.quantities import Quantity, read_quantity
from sar.grading.rules.special_numbers import BASED, RATIO, read_clock
from sar.grading.rules.structures import Structure, read_structure, split_sides
from sar.grading.rules.words import is_textual

_MAX_PARTS = 8
_MAX_CHARS = 200
_BRACKETED = {"": "list", "{}": "set", "U": "union"}


def describe_reading(text: str) -> str:
    """Says how a normalised answer is read: `the number 3/4`, `list of 2: the number 1; ...`."""
    if quantity := read_quantity(text):
        return _describe_quantity(quantity)
    if BASED.fullmatch(text):
        return "a number with its base"
    if RATIO.fullmatch(text) or read_clock(text):
        return "a time or a ratio"
    if is_textual(text):
        return "words"
    structure = read_structure(text)
    if structure.brackets or len(structure.parts) > 1:
        return _describe_structure(structure)
    sides = split_sides(text)
    if len(sides) == 2:
        return f"{sides[0]} = {describe_reading(sides[1])}"
    return _describe_expression(text)


def _describe_quantity(quantity: Quantity) -> str:
    percent = " percent" if quantity.is_percent else ""
    unit = f" in the unit {quantity.unit}" if quantity.unit else ""
    return f"the number {quantity.value}{percent}{unit}"


def _describe_structure(structure: Structure) -> str:
    parts = [
        _describe_structure(part) if isinstance(part, Structure) else describe_reading(part)
        for part in structure.parts[:_MAX_PARTS]
    ]
    if len(structure.parts) > _MAX_PARTS:
        parts.append("...")
    return f"{_name_structure(structure)}: {'; '.join(parts)}"


def _name_structure(structure: Structure) -> str:
    size = len(structure.parts)
    if name := _BRACKETED.get(structure.brackets):
        return f"{name} of {size}"
    if size != 2:
        return f"list of {size} in order"
    is_open = structure.brackets == "()"
    return "ordered pair or open interval" if is_open else f"interval {structure.brackets}"


def _describe_expression(text: str) -> str:
    expression = read_expression(text)
    if expression is not None:
        return f"the expression {str(expression.tree)[:_MAX_CHARS]}"
    return "text that cannot be parsed as mathematics"
