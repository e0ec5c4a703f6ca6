"""Helpers for the command lines of all packages: bounded numbers, model paths."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

from sar.errors import MAX_MESSAGE_CHARS, quote, shorten


class CommandParser(argparse.ArgumentParser):
    """An argparse parser for flags that are written out, with errors of one short line.

    argparse would take `--budget` for `--budget-minutes`. A flag that is added later would change
    what such a command does, or end it. Sub-commands get parsers of this class too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        super().error(shorten(message, MAX_MESSAGE_CHARS))


def number(
    low: float, high: float = math.inf, kind: type[int] | type[float] = float
) -> Callable[[str], Any]:
    """Returns an argparse type for numbers from `low` to `high`, both included.

    For any other text, the type raises an argparse.ArgumentTypeError that names the bounds.
    """

    def parse(text: str) -> float:
        try:
            value: float = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # NaN fails this too
            name = "a whole number" if kind is int else "a number"
            bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{quote(text)} is not {name} {bounds}")
        return value

    return parse


def looks_like_folder(model: str) -> bool:
    """True if `--model` names a local folder. A Hugging Face id is `name` or `owner/name`."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1
