"""Grader processes that die, hang and stand still, under load."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psutil
import pytest

BOMB = r"It is \boxed{9^{9^{9^9}}}"
GRADER_TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def own(start_faulty: Callable[..., Any]) -> Iterator[Any]:
    server = start_faulty("--grader-timeout", str(GRADER_TIMEOUT_S), "--grader-workers", "2")
    server.tell(step_s=0.01)
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log_text


def _bombs(rollouts: list[Any]) -> list[Any]:
    """The same prompts and labels, with a response that no grader ends with."""
    return [
        replace(
            rollout,
            payload={**rollout.payload, "query": [rollout.payload["prompts"][0] + BOMB]},
            score=0.0,
        )
        for rollout in rollouts
    ]


def _assert_bombs(answers: list[Any]) -> None:
    for answer in answers:
        assert (answer.status, answer.body["scores"]) == (200, [0.0])
        assert answer.body["extra_logs"]["grader_timeout"] == [1]
        assert answer.body["extra_logs"]["label_unreadable"] == [0]


def test_graders_killed_in_the_middle_of_a_verdict(
    own: Any, rollouts: list[Any], chaos: Any
) -> None:
    """Stopped first, so that each surely has a text at hand when it dies."""
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
    chaos.assert_right(list(zip(rollouts, answers.result(), strict=True)))
    assert own.health["grader_restarts"] - before == 2


@pytest.mark.slow
def test_graders_killed_in_the_middle_of_a_bomb(own: Any, rollouts: list[Any], chaos: Any) -> None:
    with ThreadPoolExecutor(1) as background:
        answers = background.submit(own.post_all, [*_bombs(rollouts[:2]), *rollouts])
        chaos.wait_until(lambda: own.health["in_flight"] > 0)
        time.sleep(GRADER_TIMEOUT_S / 2)
        for grader in own.graders:
            grader.kill()
    _assert_bombs(answers.result()[:2])
    chaos.assert_right(list(zip(rollouts, answers.result()[2:], strict=True)))


@pytest.mark.slow
def test_graders_killed_again_and_again_under_load(
    own: Any, rollouts: list[Any], chaos: Any
) -> None:
    before = own.health["grader_restarts"]
    load = chaos.load(own, rollouts, 64)
    num_killed = 0
    for _ in range(20):
        time.sleep(0.25)
        for grader in own.graders:
            grader.send_signal(signal.SIGKILL)
            num_killed += 1
    answers = load.stop()
    print(f"{num_killed} graders killed, {len(answers)} requests")
    chaos.assert_right(answers)
    assert num_killed >= 20
    assert own.health["grader_restarts"] - before >= num_killed // 2


def test_every_grader_hung_by_its_text(own: Any, rollouts: list[Any], chaos: Any) -> None:
    bombs = _bombs(rollouts[:4])
    mixed = [*bombs, *rollouts]
    started = time.monotonic()
    answers = own.post_all(mixed)
    elapsed_s = time.monotonic() - started
    print(f"4 bombs before 64 rollouts, two graders: all answered after {elapsed_s:.1f} s")
    _assert_bombs(answers[:4])
    chaos.assert_right(list(zip(rollouts, answers[4:], strict=True)))
    assert elapsed_s < 2 * GRADER_TIMEOUT_S + 5


def test_every_grader_stopped(own: Any, rollouts: list[Any], chaos: Any) -> None:
    """Not the text's doing: what it is worth is found out by others."""
    chaos.wait_until(lambda: len(own.graders) == 2)
    stopped = own.graders
    for grader in stopped:
        grader.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    answers = own.post_all(rollouts)
    print(f"all graders stopped: all answered after {time.monotonic() - started:.1f} s")
    chaos.assert_right(list(zip(rollouts, answers, strict=True)))
    assert time.monotonic() - started < GRADER_TIMEOUT_S + 5
    chaos.wait_until(lambda: not any(map(psutil.Process.is_running, stopped)))


@pytest.mark.slow
def test_graders_stopped_again_and_again_under_load(
    own: Any, rollouts: list[Any], chaos: Any
) -> None:
    load = chaos.load(own, rollouts, 32)
    for _ in range(3):
        time.sleep(0.5)
        for grader in own.graders:
            grader.send_signal(signal.SIGSTOP)
        time.sleep(GRADER_TIMEOUT_S)
    chaos.assert_right(load.stop())


def test_the_fork_server_killed(own: Any, rollouts: list[Any], chaos: Any) -> None:
    """What starts graders is a process too."""
    (parent,) = {grader.parent() for grader in own.graders}
    parent.kill()
    for grader in own.graders:
        grader.kill()
    answers = own.post_all(rollouts)
    chaos.assert_right(list(zip(rollouts, answers, strict=True)))
