"""Streams of decisions, and what the alarms say over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from sar.alarms.monitor import AlarmState, Monitor
from sar.decision import Decision

MakeStream = Callable[..., list[Decision]]
Watch = Callable[..., tuple[dict[str, AlarmState], list[tuple[int, str, str]]]]


@pytest.fixture
def stream(decision: Callable[..., Decision]) -> MakeStream:
    """Makes decisions, in groups of 8 with a prompt each. They are equal, except that rewards
    differ a little and that a field given is a value, or a function of the rollout's number."""

    def make(num: int, *, first: int = 0, **fields: Any) -> list[Decision]:
        one = decision("So it is 5.")
        fields = {"reward": lambda number: one.reward + number % 2 / 1000, **fields}
        return [
            replace(
                one,
                prompt=f"Problem {number // 8}?",
                **{
                    name: value(number) if callable(value) else value
                    for name, value in fields.items()
                },
            )
            for number in range(first, first + num)
        ]

    return make


@pytest.fixture
def watch() -> Watch:
    """Watches decisions. Returns each alarm's last state by its name, and each change: rollout,
    name, state."""

    def run(
        decisions: Iterable[Decision], window: int = 64
    ) -> tuple[dict[str, AlarmState], list[tuple[int, str, str]]]:
        monitor = Monitor(window)
        changes: list[tuple[int, str, str]] = [
            (monitor.num_rollouts, state.alarm.name, state.state)
            for one in decisions
            for state in monitor.add(one)
        ]
        return {state.alarm.name: state for state in monitor.states()}, changes

    return run
