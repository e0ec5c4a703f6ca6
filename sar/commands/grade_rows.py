"""Reads the rows that `python -m sar grade --file` grades: a response and its label a line.

A row may also have `prompt` and `special_tokens`, as the lines of a reward log do. Then the
response is graded as the server did: without these tokens, and after a `<think>` tag if the prompt
ends with one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sar.errors import quote
from sar.grading.graded_text import make_graded_text
from sar.grading.label import GraderName, Label, LabelError, parse_label

_FORM = "each line must be one JSON object"
_MAX_NAMED_KEYS = 10
_MAX_NAME_CHARS = 30


@dataclass(frozen=True)
class Keys:
    """The names of a row's fields."""

    response: str = "response"
    label: str = "label"
    expected: str | None = None
    """Holds 1 or true if the response is known to be correct, 0 or false if it is known to be
    wrong."""


@dataclass(frozen=True)
class Row:
    """A response to grade."""

    line: int
    text: str
    """The text that is graded."""
    label_as_given: object
    label: Label
    expected: bool | None
    """Whether the response is known to be correct; None: the row does not say."""


@dataclass(frozen=True)
class BadRow:
    """A line that cannot be graded."""

    line: int
    error: str
    """What is wrong with it, and what to do."""


def read_rows(
    file: Path,
    keys: Keys,
    grader: GraderName | None = None,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> Iterator[Row | BadRow]:
    """The rows of a file, in order. Empty lines are skipped.

    Args:
        grader: grades every response; None: the grader that each label asks for.
        on_bytes: called with the size of each line after it was read.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            on_bytes(len(line))
            line = line.strip()
            if not line:
                continue
            try:
                yield _read_row(number, _parse_object(line), keys, grader)
            except ValueError as error:
                yield BadRow(number, str(error))


def _parse_object(line: bytes) -> dict[str, Any]:
    """Parses a line.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8; {_FORM} in UTF-8") from error
    except json.JSONDecodeError as error:
        # Its own message names line 1, which is not the file's.
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}; {_FORM}") from error
    except RecursionError as error:
        raise ValueError(f"not JSON: nested too deeply; {_FORM}") from error
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object; {_FORM}")
    return value


def _read_row(line: int, row: dict[str, Any], keys: Keys, grader: GraderName | None) -> Row:
    response = _get(row, keys.response, "--response-key")
    if not isinstance(response, str):
        raise ValueError(f"{keys.response!r} is not a string; it must be the response's text")
    label_as_given = _get(row, keys.label, "--label-key")
    try:
        label = parse_label(label_as_given, grader)
    except LabelError as error:
        raise ValueError(f"{keys.label!r}: {error}") from error
    return Row(
        line, _get_graded_text(row, response), label_as_given, label, _get_expected(row, keys)
    )


def _get(row: dict[str, Any], key: str, option: str) -> Any:
    if key not in row:
        names = (quote(name, _MAX_NAME_CHARS) for name in list(row)[:_MAX_NAMED_KEYS])
        found = ", ".join(names) or "no fields"
        raise ValueError(f"no {key!r}; the row has {found}: name the right one with {option}")
    return row[key]


def _get_graded_text(row: dict[str, Any], response: str) -> str:
    prompt = row.get("prompt")
    return make_graded_text(
        response,
        prompt=prompt if isinstance(prompt, str) else "",
        special_tokens=_get_texts(row, "special_tokens"),
        end_tokens=_get_texts(row, "end_tokens"),
    )


def _get_texts(row: dict[str, Any], key: str) -> list[str]:
    """Returns the texts in a list of a row; none if there is no list."""
    texts = row.get(key)
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def _get_expected(row: dict[str, Any], keys: Keys) -> bool | None:
    expected = row.get(keys.expected) if keys.expected is not None else None
    if expected is None:
        return None
    if not isinstance(expected, (bool, int, float)) or expected not in (0, 1):
        raise ValueError(
            f"{keys.expected!r} is {quote(expected, 40)}; it must be 0, 1, true or false"
        )
    return bool(expected)
