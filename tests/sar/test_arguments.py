"""Bounded numbers on command lines: accepted, or refused with a message that names the bounds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import pytest

from sar.arguments import CommandParser, number
from sar.errors import quote


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (number(0, 1), "0", 0.0),
        (number(0, 1), "1", 1.0),
        (number(0, 10), "1e-3", 0.001),
        (number(1, kind=int), "123456789012", 123456789012),
        (number(-5, 5, int), "-5", -5),
    ],
)
def test_a_number_within_its_limits(parse: Callable[[str], Any], text: str, value: float) -> None:
    assert parse(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("limits", "texts", "complaint"),
    [
        ((0, 1), ["-0.1", "1.01", "nan", "inf", "x", ""], "is not a number from 0 to 1"),
        ((1, 256, int), ["0", "257", "1.5", "1e2", "nan"], "is not a whole number from 1 to 256"),
        ((0, math.inf, int), ["-1", "9" * 5000], "is not a whole number of at least 0"),
    ],
)
def test_any_other_text_is_refused_by_name(
    limits: tuple[Any, ...], texts: list[str], complaint: str
) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            number(*limits)(text)
        assert str(caught.value) == f"{quote(text)} {complaint}"


@pytest.mark.parametrize("argv", [["--budget", "3"], ["run", "--round", "3"], ["--round=3"]])
def test_flags_are_written_out(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(prog="program")
    parser.add_argument("--budget-minutes")
    parser.add_argument("--round-number")
    command = parser.add_subparsers().add_parser("run")
    command.add_argument("--rounds")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(argv)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert parser.parse_args(["--budget-minutes", "3", "run", "--rounds=4"]).rounds == "4"
