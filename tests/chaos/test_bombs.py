"""Many responses that no grader can finish, beside ordinary ones, through the real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Answer, FaultyServer, Helpers, Rollout

pytestmark = pytest.mark.alone

NUM_BOMBS = 50
LOAD_S = 10.0


def _make_bombs(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Each bomb is another text, so that no verdict can be remembered."""
    bombs = []
    for index in range(NUM_BOMBS):
        one = rollouts[index % len(rollouts)]
        response = rf"Try {index}: \boxed{{9^{{9^{{9^{{{9 + index}}}}}}}}}"
        query = [one.payload["prompts"][0] + response]
        bombs.append(replace(one, payload={**one.payload, "query": query}, score=0.0))
    return bombs


def _compute_p99(answers: Sequence[tuple[Rollout, Answer]]) -> float:
    times_s = sorted(answer.elapsed_s for _, answer in answers)
    return times_s[int(0.99 * len(times_s))]


def test_50_bombs_starve_nobody(
    start_faulty: Callable[..., FaultyServer], rollouts: list[Rollout], chaos: Helpers
) -> None:
    server = start_faulty("--grader-workers", "2", "--request-timeout", "20")
    assert "grader processes: an environment without keys; " in server.log_text
    server.tell(step_s=0.01)

    def measure_load() -> float:
        load = chaos.Load(server, rollouts, 8)
        time.sleep(LOAD_S)
        answers = load.stop()
        chaos.assert_rewarded(answers)
        return _compute_p99(answers)

    p99_idle_s = measure_load()
    with ThreadPoolExecutor(1) as background:
        bombs = background.submit(server.post_all, _make_bombs(rollouts))
        started = time.monotonic()
        answers = server.post_all(rollouts[:50])
        elapsed_s = time.monotonic() - started
        chaos.assert_rewarded(list(zip(rollouts, answers, strict=False)))
        p99_bombs_s = measure_load()
        statuses = [answer.status for answer in bombs.result()]
        scores = [answer.body["scores"] for answer in bombs.result() if answer.status == 200]
    print(
        f"50 right answers beside {NUM_BOMBS} bombs: all after {elapsed_s:.2f} s; 99th percentile "
        f"{1e3 * p99_idle_s:.0f} ms idle, {1e3 * p99_bombs_s:.0f} ms beside bombs; bombs: "
        f"{statuses.count(200)} judged, {statuses.count(504)} not in time"
    )
    assert p99_bombs_s <= 3 * p99_idle_s
    assert set(statuses) <= {200, 504}
    assert scores == [[0.0]] * statuses.count(200)
    assert server.stop() == 0
