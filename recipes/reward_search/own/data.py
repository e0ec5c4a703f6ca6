"""The training prompts of a file that recipes/prepare_data.py wrote."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.errors import UserError
from recipes.data_rows import DataRow, iter_rows
from recipes.launch.settings import LaunchError
from sar.prompts import make_messages, render_prompt


@dataclass(frozen=True)
class TrainRow:
    """One question and its label."""

    question: str
    """The text of the user turn, with the instruction."""
    label: str
    """As a reward server takes it."""


@dataclass(frozen=True)
class TrainData:
    """All rows of a file."""

    rows: list[TrainRow]
    system_prompt: str
    """Of every row; empty for none."""
    sha256: str
    """Of the file."""


def read_train_data(path: str) -> TrainData:
    """
    Raises:
        UserError: the file cannot be read, or a row cannot be trained on.
    """
    rows: list[TrainRow] = []
    system_prompt = ""
    try:
        for row in iter_rows(path):
            found, question = _split_turns(row)
            if rows and found != system_prompt:
                raise UserError(
                    f"--train-data {row.where}: its system prompt is not that of line 1; the "
                    "reward server needs one for all"
                )
            system_prompt = found
            if row.label.mode == "eval":
                raise UserError(
                    f'--train-data {row.where}: the label has the mode "eval", so every reward '
                    "would be correctness alone"
                )
            label = row.raw_label
            rows.append(TrainRow(question, label if isinstance(label, str) else json.dumps(label)))
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except LaunchError as error:
        raise UserError(f"--train-data {error}") from error
    return TrainData(rows, system_prompt, digest)


def _split_turns(row: DataRow) -> tuple[str, str]:
    """The system prompt and the question."""
    roles = [turn["role"] for turn in row.messages]
    if roles not in (["user"], ["system", "user"]):
        raise UserError(
            f"--train-data {row.where}: a prompt of the roles {', '.join(roles)[:80]}; it must be "
            "one user turn, or a system turn and a user turn"
        )
    system_prompt = row.messages[0]["content"] if len(roles) == 2 else ""
    return system_prompt, row.messages[-1]["content"]


def draw_rows(rows: Sequence[TrainRow], num_rows: int, seed: int) -> list[TrainRow]:
    """The rows of all steps, in order: passes over the data, each in an order of its own. They
    depend on the seed, not on the reward."""
    rng = random.Random(seed)
    drawn: list[TrainRow] = []
    while len(drawn) < num_rows:
        drawn += rng.sample(rows, len(rows))
    return drawn[:num_rows]


def make_prompt(tokenizer: Any, question: str, system_prompt: str) -> str | list[dict[str, str]]:
    """A prompt as TRL takes it, which it renders as `python -m eval` does.

    Messages, if there is a chat template. A rendered text would get a second BOS token.
    """
    if not tokenizer.chat_template:
        return render_prompt(tokenizer, question, system_prompt)
    return make_messages(tokenizer, question, system_prompt)
