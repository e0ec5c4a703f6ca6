"""Parses the label that comes with a prompt: the ground truth, and how to grade against it.

A label is either the answer as a plain string, or a JSON object (or its text) with more fields:
`{"answer": "B", "grader": "choice", "mode": "eval", "choices": ["red", "blue"]}`.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sar.errors import first_line, quote

GraderName = Literal["math", "choice", "boolean", "exact"]
Mode = Literal["train", "eval"]

_FIELDS = ("answer", "grader", "mode", "choices", "group", "target_tokens")
_TRUE = frozenset({"true", "yes"})
_FALSE = frozenset({"false", "no"})
# These can be an answer of other kinds too, so they need a label that names the boolean grader.
_SHORT_TRUTHS = {"t": True, "y": True, "1": True, "f": False, "n": False, "0": False}
# What can be around the letter of an option. `$c$`, `{c}` and `\mathbf{c}` are mathematics as well;
# the other forms are not: `(c)`, `c.`, `**c**`, `\text{(c)}`, `option c`.
_PLAIN_WRAPPERS = (
    re.compile(r"\$\$?(.*?)\$\$?", re.DOTALL),
    re.compile(r"\\\((.*)\\\)", re.DOTALL),
    re.compile(r"(?:\\(?:boxed|fbox|mathrm|mathbf|mathsf|mathit)\s*)?\{(.*)\}", re.DOTALL),
)
_OPTION_WRAPPERS = (
    re.compile(r"\\(?:text\w*|mbox)\s*\{(.*)\}", re.DOTALL),
    re.compile(r"\((.*)\)|\[(.*)\]", re.DOTALL),
    re.compile(r"([*_]{1,3}|[\"'`])(.*)\1", re.DOTALL),
    re.compile(r"(?:the\s+)?(?:option|choice|letter|answer)(?:\s+is\b)?\s*:?\s*(.*)", re.I | re.S),
    re.compile(r"(.*?)\s*[.):\]]", re.DOTALL),
)
_MAX_WRAPPERS = 6
# A letter in six wrappers is shorter.
_MAX_OPTION_CHARS = 200
# `(C) Paris`, `C. Paris`: the letter and the text of an option.
_LETTER_AND_TEXT = re.compile(r"\(?([A-Za-z])(?:\)|[.:])\s+\S")
# The most options of a public benchmark (MMLU-Pro: A to J). A bare `N` or `R` is mathematics.
_LAST_BARE_LETTER = "J"
_FUNCTION = re.compile(r"\b(?:sin|cos|tan|cot|log|ln|exp|sqrt|pi)\b")
# LogicBench's name for an option: `choice_2`.
_OPTION_NAME = re.compile(r"\bchoice_([1-9]|1\d|2[0-6])\b")
_MAX_CHOICES = len(string.ascii_uppercase)
_MAX_TARGET_TOKENS = 10**9  # more than any context; a larger number would overflow elsewhere
# Of a value in an error message: a typical answer, and the start of a solution.
_MAX_QUOTED_CHARS = 60
# `{"answer": 5` and `{'answer': 5`, but not the set `{1, 2}`.
_MEANT_AS_JSON = re.compile(r"""\s*\{\s*['"]\w+['"]\s*:""")
# In JSON, `\frac` with one backslash becomes a form feed and `rac`; `\neq` a line feed and `eq`.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x09\x0b-\x1f]|\n(?=eq\b|u\b|abla\b)")


class LabelError(ValueError):
    """The label is invalid. `field` names the label's invalid field, if there is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Label:
    """A parsed label.

    `answer` is a letter for the choice grader, and "true" or "false" for the boolean grader.
    """

    answer: str
    grader: GraderName
    mode: Mode = "train"
    choices: tuple[str, ...] = ()
    group: str | int | None = None
    """Keeps the rollouts of equal prompts apart, such as the number of the row."""
    target_tokens: int | None = None
    """Length that the prompt asks for. Only the reward term `target_length` reads it."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts in it. Each may be as long as a request may be."""
        return (self.answer, *self.choices, self.group if isinstance(self.group, str) else "")


def parse_label(value: object, grader: GraderName | None = None) -> Label:
    """Parses and checks a label as a request contains it.

    Args:
        value: the answer, a JSON object, or a JSON object's text.
        grader: overrides the label's own grader. Without either, `choose_grader` chooses one.
    Raises:
        LabelError: `value` has another type, a field is unknown or invalid, or the grader could
            never find a response correct with this answer.
    """
    if isinstance(value, str):
        value = _parse_json_object(value) or value
    is_plain = isinstance(value, str)
    if is_plain:
        value = {"answer": value}
    if not isinstance(value, dict):
        raise LabelError(
            f"a label is a string or an object, not {_name_type(value)}: {_quote(value)}"
        )
    if unknown := [name for name in value if name not in _FIELDS]:
        raise LabelError(f"unknown label field {_quote(unknown[0])}; known: {', '.join(_FIELDS)}")
    answer = value.get("answer")
    if not isinstance(answer, str):
        found = "is missing" if answer is None else f"is {_name_type(answer)}, {_quote(answer)}"
        raise LabelError(f"the label's answer {found}; it must be a string", "answer")
    if not answer.strip():
        raise LabelError("the label's answer is empty: there is nothing to grade against", "answer")
    if not is_plain and _CONTROL_CHARACTER.search(answer.strip(" \t\r\n")):
        raise LabelError(
            f"the label's answer {_quote(answer)} contains a control character; in JSON, LaTeX "
            r"needs two backslashes, \\frac and not \frac",
            "answer",
        )
    choices = _check_choices(value.get("choices"))
    target_tokens = _check_target(value.get("target_tokens"))
    own_grader = _check_option(value, "grader", get_args(GraderName))
    mode: Mode = _check_option(value, "mode", get_args(Mode)) or "train"
    group = _check_group(value.get("group"))
    answer = answer.strip()
    name: GraderName = grader or own_grader or choose_grader(answer, choices)
    if name == "choice":
        answer = _find_letter(answer, choices)
    elif name == "boolean":
        truth = read_truth_value(answer)
        if truth is None:
            truth = _SHORT_TRUTHS.get(answer.casefold())
        if truth is None:
            raise LabelError(
                f"the boolean answer {_quote(answer)} is not true/false/yes/no; the grader exact "
                "compares other words",
                "answer",
            )
        answer = "true" if truth else "false"
    return Label(answer, name, mode, choices, group, target_tokens)


def names_grader(value: object) -> bool:
    """Whether a valid label, as a request contains it, names its grader."""
    if isinstance(value, str):
        value = _parse_json_object(value)
    return isinstance(value, dict) and value.get("grader") is not None


def choose_grader(answer: str, choices: Sequence[str] = ()) -> GraderName:
    """Chooses the grader for a label that names none, by the form of its answer.

    A letter in a form that only options have, such as `(c)` or `C.`, is a choice. A bare letter is
    one from A to J, as many options as MMLU-Pro has. A bare `c`, `N` or `R` is a variable or a set.
    """
    letter, is_option = _unwrap_letter(answer)
    is_bare_option = letter.isupper() and letter <= _LAST_BARE_LETTER
    if choices or (letter and (is_option or is_bare_option)):
        return "choice"
    if read_truth_value(answer) is not None:
        return "boolean"
    # Mathematics has a digit, a LaTeX command or an operator (`10 apples`, `x = y`), or no words.
    has_words = re.search(r"[^\W\d_]{2,}", _FUNCTION.sub("", answer))
    if re.search(r"[\d\\$^=<>±√π∞+*/|]", answer) or not has_words:
        return "math"
    return "exact"


def read_choice_letter(text: str, num_choices: int = _MAX_CHOICES) -> str | None:
    """Returns the letter of a text that is only a letter, such as `(b)` or `\\text{B}`, or None."""
    letter = _unwrap_letter(text)[0].upper()
    return letter if letter and string.ascii_uppercase.index(letter) < num_choices else None


def _unwrap_letter(text: str) -> tuple[str, bool]:
    """Returns the letter that a text consists of, or "", and whether its form is an option's."""
    text = text.strip()
    if len(text) > _MAX_OPTION_CHARS:  # the patterns, and NFKC, can take the square of its length
        return "", False
    text = unicodedata.normalize("NFKC", replace_option_names(text)).strip()
    is_option = False
    for _ in range(_MAX_WRAPPERS):
        for wrapper in (*_PLAIN_WRAPPERS, *_OPTION_WRAPPERS):
            if match := wrapper.fullmatch(text):
                text = match[match.lastindex or 0].strip()
                is_option = is_option or wrapper in _OPTION_WRAPPERS
                break
    return (text, is_option) if re.fullmatch(r"[A-Za-z]", text) else ("", is_option)


def replace_option_names(text: str) -> str:
    """Replaces LogicBench's names of options with letters: `choice_2` becomes `B`."""
    return _OPTION_NAME.sub(lambda name: string.ascii_uppercase[int(name[1]) - 1], text)


def read_truth_value(text: str) -> bool | None:
    """Returns True for true/yes, False for false/no, and None for any other text."""
    word = re.sub(r"\\(?:text\w*|boxed|mathrm|mathbf)|[\s{}()\[\].!$*_`'\"]", "", text).casefold()
    return True if word in _TRUE else False if word in _FALSE else None


def count_choices(choices: Sequence[str]) -> int:
    """Returns the number of options: all letters for a label that does not list them."""
    return len(choices) or _MAX_CHOICES


def _find_letter(answer: str, choices: tuple[str, ...]) -> str:
    """Returns the letter of an answer that is a letter, an option's text, or both."""
    allowed = string.ascii_uppercase[: count_choices(choices)]
    if len(answer) == 1 and answer in allowed:
        return answer
    texts = [text.strip().casefold() for text in choices]
    matches = [string.ascii_uppercase[i] for i, t in enumerate(texts) if t == answer.casefold()]
    if not matches and (letter := read_choice_letter(answer)):
        matches = [letter]
    if not matches and (both := _LETTER_AND_TEXT.match(answer)):
        matches = [both[1].upper()]
    if len(matches) == 1 and matches[0] in allowed:
        return matches[0]
    hint = "" if choices else "; list the options in `choices`, or use the grader exact"
    raise LabelError(
        f"the choice answer {_quote(answer)} is not a letter A-{allowed[-1]} or one option's text"
        f"{hint}",
        "answer",
    )


def _check_choices(choices: Any) -> tuple[str, ...]:
    if choices is None:
        return ()
    if not isinstance(choices, (list, tuple)) or not all(isinstance(c, str) for c in choices):
        raise LabelError(f"choices must be a list of strings, not {_quote(choices)}", "choices")
    if len(choices) > _MAX_CHOICES:
        raise LabelError(f"{len(choices)} choices; at most 26 have a letter", "choices")
    return tuple(choices)


def _check_group(group: Any) -> str | int | None:
    if isinstance(group, bool) or not isinstance(group, (str, int, type(None))):
        raise LabelError(f"group must be a text or a whole number, not {_quote(group)}", "group")
    if isinstance(group, str) and not group.strip():
        raise LabelError("group is empty; leave it out, or name the row", "group")
    return group


def _check_target(tokens: Any) -> int | None:
    if tokens is None or (type(tokens) is int and 1 <= tokens <= _MAX_TARGET_TOKENS):
        return tokens
    raise LabelError(
        f"target_tokens must be a whole number from 1 to {_MAX_TARGET_TOKENS:,}, not "
        f"{_quote(tokens)}",
        "target_tokens",
    )


def _check_option(value: dict[str, Any], field: str, allowed: tuple[str, ...]) -> Any:
    option = value.get(field)
    if option is not None and option not in allowed:
        raise LabelError(
            f"unknown {field} {_quote(option)}; one of {', '.join(allowed)}",
            field,
        )
    return option


def _parse_json_object(text: str) -> dict[str, Any] | None:
    """Returns the JSON object that a text is, or None for a text that is an answer."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if _MEANT_AS_JSON.match(text):
            raise LabelError(
                f"the label looks like a JSON object but is not: {first_line(error)}"
            ) from error
        return None  # for example the set {1, 2}
    return value if isinstance(value, dict) else None


def _quote(value: object) -> str:
    return quote(value, _MAX_QUOTED_CHARS)


def _name_type(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "a list" if isinstance(value, list) else type(value).__name__)
