"""Decisions for the reward log, and what its tests read and wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sar.decision import Decision
from sar.rescore import read_log

MakeDecision = Callable[..., Decision]
ReadAll = Callable[[Path], list[Decision]]
WaitFor = Callable[[Callable[[], object]], None]

_WAIT_S = 60.0


@pytest.fixture(scope="session")
def numbered_decision(decision: Callable[..., Decision]) -> MakeDecision:
    """Makes decisions that differ: `numbered_decision(3)` is of request r3."""

    def make(number: int = 0, response: str = "So it is 5.") -> Decision:
        made = decision(response, answer="5", nll_a=0.5 + number / 1000)
        return replace(made, request_id=f"r{number}")

    return make


@pytest.fixture(scope="session")
def read_all() -> ReadAll:
    """Reads all decisions of all files in a folder; fails on an incomplete line."""

    def torn(place: str) -> None:
        raise AssertionError(place)

    def read(folder: Path) -> list[Decision]:
        files = sorted(folder.glob("*.jsonl"))
        return [logged.decision for file in files for logged in read_log(file, on_torn=torn)]

    return read


@pytest.fixture(scope="session")
def wait_for() -> WaitFor:
    """Waits until a condition is true; fails after a minute."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait
