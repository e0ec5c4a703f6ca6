"""The watch: decisions reach every consumer, and no request waits for one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from reward_server.observe.watch import Watch
from sar.decision import Decision

MakeDecision = Callable[..., Decision]
WaitFor = Callable[[Callable[[], object]], None]


def _has(seen: Sequence[Decision], num: int) -> bool:
    return len(seen) == num


def list_requests(decisions: Sequence[Decision]) -> list[str]:
    return [decision.request_id for decision in decisions]


def test_consumers_get_all_decisions_in_order(
    numbered_decision: MakeDecision, wait_for: WaitFor
) -> None:
    first: list[Decision] = []
    second: list[Decision] = []
    watch = Watch([first.extend, second.extend])
    for number in range(300):
        watch.offer(numbered_decision(number))
    wait_for(lambda: len(second) == 300)
    assert list_requests(first) == list_requests(second) == [f"r{n}" for n in range(300)]
    assert watch.num_dropped == 0
    watch.close()


def test_a_consumer_that_fails_stops_neither_the_watch_nor_others(
    numbered_decision: MakeDecision, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Decision] = []

    def fail(decisions: Sequence[Decision]) -> None:
        raise RuntimeError("broken")

    watch = Watch([fail, seen.extend])
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            watch.offer(numbered_decision(number))
            wait_for(partial(_has, seen, number + 1))
    assert [record.message for record in caplog.records] == [
        "the dashboard or an alarm misses some rollouts"
    ]
    watch.close()


@pytest.mark.parametrize("limits", [{"max_queued": 10}, {"max_queued_chars": 10 * 2000}])
def test_a_full_queue_drops_and_counts_and_does_not_wait(
    limits: Any, numbered_decision: MakeDecision, wait_for: WaitFor
) -> None:
    may_go = threading.Event()
    seen: list[Decision] = []

    def hang(decisions: Sequence[Decision]) -> None:
        may_go.wait(60)
        seen.extend(decisions)

    watch = Watch([hang], **limits)
    made = [numbered_decision(n, "x" * (2000 - len("What is 2 + 3?"))) for n in range(50)]
    start_s = time.monotonic()
    for one in made:
        watch.offer(one)
    assert time.monotonic() - start_s < 30  # far less than the consumer hangs
    assert watch.num_dropped == 40
    may_go.set()
    wait_for(lambda: len(seen) == 10)
    watch.offer(made[0])
    wait_for(lambda: len(seen) == 11)
    assert list_requests(seen) == [*(f"r{n}" for n in range(10)), "r0"]
    watch.close()


def test_a_closed_watch_drops(numbered_decision: MakeDecision) -> None:
    watch = Watch([])
    watch.close()
    watch.offer(numbered_decision())
    assert watch.num_dropped == 1
    assert "watch" not in [thread.name for thread in threading.enumerate()]
