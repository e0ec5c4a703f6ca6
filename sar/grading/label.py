"""The label that comes with a prompt: the ground truth, and how to grade against it.

A plain string is the answer. A JSON object, as an object or as its text, says more:
`{"answer": "B", "grader": "choice", "mode": "eval", "choices": ["red", "blue"]}`.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

GraderName = Literal["math", "choice", "boolean", "exact"]
Mode = Literal["train", "eval"]

_FIELDS = ("answer", "grader", "mode", "choices")
_TRUE = frozenset({"true", "yes"})
_FALSE = frozenset({"false", "no"})
_LETTER = re.compile(r"(?:\\text\w*|\\mathrm|\\mathbf)?[\s{(\[$*]*([A-Z])[\s})\].:$*]*")
_FUNCTION = re.compile(r"\b(?:sin|cos|tan|cot|log|ln|exp|sqrt|pi)\b")
_NUMBERED = re.compile(r"\bchoice_([1-9]|1\d|2[0-6])\b")
_DEFAULT_NUM_CHOICES = 5
_MEANT_AS_JSON = re.compile(r"""\s*\{\s*['"]\w+['"]\s*:""")
# What JSON makes of \frac, \times, \beta, \rho, \neq, \nu, \nabla with one backslash.
_UNESCAPED = re.compile(r"[\x00-\x09\x0b-\x1f]|\n(?=eq\b|u\b|abla\b)")


class LabelError(ValueError):
    """A label that cannot be graded against. `field` is the label's own field at fault, if any."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Label:
    """A ground truth. For the choice grader, `answer` is a letter; for boolean, true or false."""

    answer: str
    grader: GraderName
    mode: Mode = "train"
    choices: tuple[str, ...] = ()


def parse_label(value: object, grader: GraderName | None = None) -> Label:
    """Reads and checks a label as it came over the wire.

    Args:
        value: a string, a JSON object's text, or a JSON object.
        grader: takes the place of the one that the label or its answer's form names.
    Raises:
        LabelError: it is neither, a field is unknown or wrong, or the answer is not one that its
            grader can find right.
    """
    if isinstance(value, str):
        value = _json_object(value) or value
    is_plain = isinstance(value, str)
    if is_plain:
        value = {"answer": value}
    if not isinstance(value, dict):
        raise LabelError(f"a label is a string or an object, not {_type_name(value)}")
    if unknown := [name for name in value if name not in _FIELDS]:
        raise LabelError(f"unknown label field {unknown[0]!r}; known: {', '.join(_FIELDS)}")
    answer = value.get("answer")
    if not isinstance(answer, str):
        found = "is missing" if answer is None else f"is {_type_name(answer)}"
        raise LabelError(f"the label's answer {found}; it must be a string", "answer")
    if not answer.strip():
        raise LabelError("the label's answer is empty: there is nothing to grade against", "answer")
    if not is_plain and _UNESCAPED.search(answer.strip(" \t\r\n")):
        raise LabelError(
            f"the label's answer {answer[:40]!r} holds a control character: in JSON, LaTeX needs "
            r"two backslashes, \\frac and not \frac",
            "answer",
        )
    choices = _checked_choices(value.get("choices"))
    own = _checked_option(value, "grader", get_args(GraderName))
    mode: Mode = _checked_option(value, "mode", get_args(Mode)) or "train"
    answer = answer.strip()
    name: GraderName = grader or own or choose_grader(answer, choices)
    if name == "choice":
        answer = _letter_of(answer, choices)
    elif name == "boolean":
        truth = truth_value(answer)
        if truth is None:
            raise LabelError(
                f"the boolean answer {answer[:40]!r} is not true/false/yes/no", "answer"
            )
        answer = "true" if truth else "false"
    return Label(answer, name, mode, choices)


def choose_grader(answer: str, choices: Sequence[str] = ()) -> GraderName:
    """The grader for an answer that does not name one, by the answer's form."""
    if choices or choice_letter(answer, _DEFAULT_NUM_CHOICES):
        return "choice"
    if truth_value(answer) is not None:
        return "boolean"
    # A digit, a LaTeX command, an operator or the lack of words makes it mathematics.
    has_words = re.search(r"[^\W\d_]{2,}", _FUNCTION.sub("", answer))
    if re.search(r"[\d\\$^=<>±√π∞+*/|]", answer) or not has_words:
        return "math"
    return "exact"


def choice_letter(text: str, num_choices: int) -> str | None:
    """The letter of a text that is nothing but one, such as `(B)` or `\\text{B}`."""
    match = _LETTER.fullmatch(with_letters(text).strip())
    if match and string.ascii_uppercase.index(match[1]) < num_choices:
        return match[1]
    return None


def with_letters(text: str) -> str:
    """A text with LogicBench's names of options, `choice_2`, as letters."""
    return _NUMBERED.sub(lambda number: string.ascii_uppercase[int(number[1]) - 1], text)


def truth_value(text: str) -> bool | None:
    """True for true/yes, False for false/no, None for anything else."""
    word = re.sub(r"\\text\w*|[\s{}().$*'\"]", "", text).casefold()
    return True if word in _TRUE else False if word in _FALSE else None


def num_choices(choices: Sequence[str]) -> int:
    """How many letters can be chosen."""
    return len(choices) or _DEFAULT_NUM_CHOICES


def _letter_of(answer: str, choices: tuple[str, ...]) -> str:
    if letter := choice_letter(answer, num_choices(choices)):
        return letter
    matching = [i for i, text in enumerate(choices) if text.strip().casefold() == answer.casefold()]
    if len(matching) != 1:
        allowed = f"A-{string.ascii_uppercase[num_choices(choices) - 1]}"
        raise LabelError(
            f"the choice answer {answer[:40]!r} is not a letter {allowed} or one option's text",
            "answer",
        )
    return string.ascii_uppercase[matching[0]]


def _checked_choices(choices: Any) -> tuple[str, ...]:
    if choices is None:
        return ()
    if not isinstance(choices, (list, tuple)) or not all(isinstance(c, str) for c in choices):
        raise LabelError("choices must be a list of strings", "choices")
    if len(choices) > len(string.ascii_uppercase):
        raise LabelError(f"{len(choices)} choices; at most 26 have a letter", "choices")
    return tuple(choices)


def _checked_option(value: dict[str, Any], field: str, allowed: tuple[str, ...]) -> Any:
    option = value.get(field)
    if option is not None and option not in allowed:
        raise LabelError(f"unknown {field} {option!r}; one of {', '.join(allowed)}", field)
    return option


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if _MEANT_AS_JSON.match(text):
            raise LabelError(f"the label looks like a JSON object but is not: {error}") from error
        return None  # a set such as {1, 2}, say
    return value if isinstance(value, dict) else None


def _type_name(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "a list" if isinstance(value, list) else type(value).__name__)
