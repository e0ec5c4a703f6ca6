"""The flags of `run` for a model and data of one's own."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from eval.errors import UserError
from recipes.reward_search.settings import OwnSettings
from sar.arguments import number

_NEEDED = ("policy", "train_data", "benchmarks")
"""They come together."""


def add_own_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "your own model and data, in place of the CPU demo's (the first three come together)"
    )
    group.add_argument("--policy", metavar="MODEL", help="model to train: a folder or hub id")
    group.add_argument(
        "--train-data",
        metavar="FILE",
        help="training prompts: train.jsonl of recipes/prepare_data.py",
    )
    group.add_argument(
        "--benchmarks",
        metavar="NAMES",
        help="held-out problems: all, or names separated by commas; see `python -m eval list`",
    )
    group.add_argument(
        "--benchmark-dir",
        metavar="DIR",
        help="folder of the benchmarks' files (default: Hugging Face hub)",
    )
    whole: dict[str, Any] = {"type": number(1, kind=int), "metavar": "N"}
    default = OwnSettings("", "", "")
    for name, bounds, text in (
        ("max_tokens", whole, "maximum length of a response, in training and evaluation"),
        ("prompts_per_step", whole, "prompts of a training step"),
        ("n_samples", {**whole, "type": number(2, kind=int)}, "responses to each prompt"),
    ):
        group.add_argument(
            _flag(name), help=f"{text} (default: {getattr(default, name)})", **bounds
        )
    group.add_argument(
        "--micro-batch-size",
        help="responses in one forward and backward pass of the training; a smaller number needs "
        "less memory (default: --n-samples)",
        **whole,
    )


def read_own_flags(arguments: argparse.Namespace) -> OwnSettings | None:
    """The settings that the flags give. None: the CPU demo's model and data are used.

    Raises:
        UserError: flags are missing, or contradict each other.
    """
    names = [one.name for one in fields(OwnSettings) if hasattr(arguments, one.name)]
    given = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    first = next(iter(given))
    if missing := [_flag(name) for name in _NEEDED if not given.get(name)]:
        raise UserError(f"{_flag(first)} {given[first]}: needs {' and '.join(missing)} too")
    for name in ("policy", "train_data", "benchmark_dir"):
        # The search may be continued from another folder.
        if name in given and Path(given[name]).exists():
            given[name] = str(Path(given[name]).resolve())
    own = OwnSettings(**given)
    if own.rollouts_per_step % own.rollouts_per_pass:
        raise UserError(
            f"--micro-batch-size {own.micro_batch_size}: does not divide the "
            f"{own.rollouts_per_step} responses of a step (--prompts-per-step x --n-samples)"
        )
    return own


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
