"""Reads and checks the rows of a run's data. The preflight does it before the training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recipes.launch.settings import LaunchError
from sar.grading.label import Label, LabelError, parse_label

if TYPE_CHECKING:
    from sar.terms.composition import Composition


@dataclass(frozen=True)
class DataRow:
    """One row of a file that prepare_data.py writes."""

    where: str
    """The file and the line, for messages."""
    messages: list[dict[str, str]]
    label: Label
    raw_label: Any
    """As it is in the file: what a reward server is sent."""


def check_rows(
    path: str, *, are_evaluated: bool = False, composition: Composition | None = None
) -> list[dict[str, str]]:
    """Checks every row: the server refuses a rollout whose label is not valid.

    Args:
        path: train.jsonl or eval.jsonl, as prepare_data.py writes it.
        are_evaluated: the rows are for evaluation, whose rewards must be correctness alone.
        composition: the reward of a reward file, whose terms may need more of a label.
    Returns:
        The messages of the first row.
    Raises:
        LaunchError: the file cannot be read or has no rows, or a row has no messages, no valid
            label, or the wrong mode. The message names the line.
    """
    first = None
    for row in iter_rows(path):
        _check_label(row.label, row.where, are_evaluated, composition)
        first = first or row.messages
    assert first is not None
    return first


def iter_rows(path: str) -> Iterator[DataRow]:
    """Yields every row of a file: at least one.

    Raises:
        LaunchError: the file cannot be read or has no rows, or a row has no messages or no valid
            label. The message names the line.
    """
    number = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield _read_row(line, f"{path}, line {number}")
    except OSError as error:
        raise LaunchError(f"{path}: cannot be read: {error.strerror}") from error
    if not number:
        _read_row(b"", f"{path}, line 1")


def _read_row(line: bytes, where: str) -> DataRow:
    """
    Raises:
        LaunchError: the row is not valid.
    """
    try:
        row: dict[str, Any] = json.loads(line)
        messages = list(row["prompt"])
        if not messages or not all(
            isinstance(message[key], str) for message in messages for key in ("role", "content")
        ):
            raise TypeError
        label = parse_label(row["label"])
    except LabelError as error:
        raise LaunchError(f"{where}: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LaunchError(
            f"{where}: not a row of prepare_data.py, with prompt (messages) and label"
        ) from None
    return DataRow(where, messages, label, row["label"])


def _check_label(
    label: Label, where: str, is_evaluated: bool, composition: Composition | None
) -> None:
    """
    Raises:
        LaunchError: the label has the wrong mode, or lacks what a term needs.
    """
    if is_evaluated and label.mode != "eval":
        raise LaunchError(
            f"{where}: the label has the mode {label.mode!r}, so its reward would not be "
            'correctness alone; add "mode": "eval" to the labels of this file'
        )
    if composition:
        try:
            composition.check_label(label)
        except ValueError as error:
            raise LaunchError(f"{where}: {error}") from error
