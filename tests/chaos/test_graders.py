"""Grader processes that are killed, hang or are stopped, under load."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Answer, FaultyServer, Helpers, Rollout

BOMB = r"It is \boxed{\binom{99999999999}{49999999999}}"
GRADER_TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def own(start_faulty: Callable[..., FaultyServer]) -> Iterator[FaultyServer]:
    server = start_faulty("--grader-timeout", str(GRADER_TIMEOUT_S), "--grader-workers", "2")
    server.tell(step_s=0.01)
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log_text


def _make_bombs(rollouts: list[Rollout]) -> list[Any]:
    """The same prompts and labels, with a response that no grader can finish."""
    return [
        replace(
            rollout,
            payload={**rollout.payload, "query": [rollout.payload["prompts"][0] + BOMB]},
            score=0.0,
        )
        for rollout in rollouts
    ]


def _assert_timed_out(answers: list[Answer]) -> None:
    for answer in answers:
        assert (answer.status, answer.body["scores"]) == (200, [0.0])
        assert answer.body["extra_logs"]["grader_timeout"] == [1]
        assert answer.body["extra_logs"]["label_unreadable"] == [0]


def test_graders_killed_while_they_grade(
    own: FaultyServer, rollouts: list[Rollout], chaos: Helpers
) -> None:
    """They are stopped first, so that each certainly has a text when it is killed."""
    chaos.wait_until(lambda: len(own.graders) == 2)
    held = own.graders
    for grader in held:
        grader.suspend()
    before = own.health["grader_restarts"]
    with ThreadPoolExecutor(1) as background:
        answers = background.submit(own.post_all, rollouts)
        chaos.wait_until(lambda: own.health["in_flight"] == len(rollouts))
        time.sleep(0.2)
        for grader in held:
            grader.kill()
    chaos.assert_rewarded(list(zip(rollouts, answers.result(), strict=True)))
    assert own.health["grader_restarts"] - before == 2


def test_graders_killed_while_they_hang(
    own: FaultyServer, rollouts: list[Rollout], chaos: Helpers
) -> None:
    with ThreadPoolExecutor(1) as background:
        answers = background.submit(own.post_all, [*_make_bombs(rollouts[:2]), *rollouts])
        chaos.wait_until(lambda: own.health["in_flight"] > 0)
        time.sleep(GRADER_TIMEOUT_S / 2)
        for grader in own.graders:
            grader.kill()
    _assert_timed_out(answers.result()[:2])
    chaos.assert_rewarded(list(zip(rollouts, answers.result()[2:], strict=True)))


def test_graders_killed_repeatedly_under_load(
    own: FaultyServer, rollouts: list[Rollout], chaos: Helpers
) -> None:
    before = own.health["grader_restarts"]
    load = chaos.Load(own, rollouts, 64)
    num_killed = 0
    for _ in range(20):
        time.sleep(0.25)
        for grader in own.graders:
            grader.send_signal(signal.SIGKILL)
            num_killed += 1
    answers = load.stop()
    print(f"{num_killed} graders killed, {len(answers)} requests")
    chaos.assert_rewarded(answers)
    assert num_killed >= 20
    assert own.health["grader_restarts"] - before >= num_killed // 2


def test_all_graders_hang(own: FaultyServer, rollouts: list[Rollout], chaos: Helpers) -> None:
    bombs = _make_bombs(rollouts[:4])
    mixed = [*bombs, *rollouts]
    started = time.monotonic()
    answers = own.post_all(mixed)
    elapsed_s = time.monotonic() - started
    print(f"4 bombs before 64 rollouts, two graders: all answered after {elapsed_s:.1f} s")
    _assert_timed_out(answers[:4])
    chaos.assert_rewarded(list(zip(rollouts, answers[4:], strict=True)))
    assert elapsed_s < 60


def test_all_graders_stopped(own: FaultyServer, rollouts: list[Rollout], chaos: Helpers) -> None:
    """The texts are not at fault: other graders grade them."""
    chaos.wait_until(lambda: len(own.graders) == 2)
    stopped = own.graders
    for grader in stopped:
        grader.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    answers = own.post_all(rollouts)
    print(f"all graders stopped: all answered after {time.monotonic() - started:.1f} s")
    chaos.assert_rewarded(list(zip(rollouts, answers, strict=True)))
    assert time.monotonic() - started < GRADER_TIMEOUT_S + 20
    chaos.wait_until(lambda: not any(map(psutil.Process.is_running, stopped)))


def test_graders_stopped_repeatedly_under_load(
    own: FaultyServer, rollouts: list[Rollout], chaos: Helpers
) -> None:
    load = chaos.Load(own, rollouts, 32)
    for _ in range(3):
        time.sleep(0.5)
        for grader in own.graders:
            grader.send_signal(signal.SIGSTOP)
        time.sleep(GRADER_TIMEOUT_S)
    chaos.assert_rewarded(load.stop())


def test_the_fork_server_is_killed(
    own: FaultyServer, rollouts: list[Rollout], chaos: Helpers
) -> None:
    """The process that starts graders is killed too."""
    (parent,) = {grader.parent() for grader in own.graders}
    parent.kill()
    for grader in own.graders:
        grader.kill()
    answers = own.post_all(rollouts)
    chaos.assert_rewarded(list(zip(rollouts, answers, strict=True)))
