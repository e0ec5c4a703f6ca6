"""What the command lines of all packages share: numbers in bounds, model paths."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any


def number(
    low: float, high: float = math.inf, kind: type[int] | type[float] = float
) -> Callable[[str], Any]:
    """An argparse type: a number of this kind from `low` to `high`, both included.

    Raises:
        argparse.ArgumentTypeError: by the type, for any other text; says what is wanted.
    """

    def parse(text: str) -> float:
        try:
            value: float = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # also NaN
            name = "a whole number" if kind is int else "a number"
            end = "on" if high == math.inf else f"to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {name} from {low} {end}")
        return value

    return parse


def looks_like_folder(model: str) -> bool:
    """True if `--model` means a local folder; a Hugging Face id is `name` or `owner/name`."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1
