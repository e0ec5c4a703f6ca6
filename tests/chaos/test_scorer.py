"""A scorer that fails, runs out of memory or is slow; more requests than the server accepts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from sar.grading.label import parse_label

if TYPE_CHECKING:
    from tests.chaos.conftest import FaultyServer, Helpers, Rollout


@pytest.mark.parametrize("fail", ["runtime", "memory", "cuda", "nan"])
def test_a_single_failure_of_the_scorer_has_no_effect(
    faulty: FaultyServer, rollouts: list[Rollout], chaos: Helpers, fail: str
) -> None:
    faulty.tell(fail=fail, times=1)
    answers = faulty.post_all(rollouts)
    chaos.assert_rewarded(list(zip(rollouts, answers, strict=True)))
    assert faulty.server.request("/readyz") == (200, {"status": "ready"})


@pytest.mark.parametrize("fail", ["cuda", "memory"])
def test_batches_too_large_for_memory_are_scored_in_parts(
    faulty: FaultyServer, rollouts: list[Rollout], chaos: Helpers, fail: str
) -> None:
    """The scorer never has memory for more than two sequences, which is one rollout."""
    faulty.tell(fail=fail, above=2)
    answers = faulty.post_all(rollouts)
    chaos.assert_rewarded(list(zip(rollouts, answers, strict=True)))


@pytest.mark.parametrize("fail", ["runtime", "nan"])
def test_a_scorer_that_keeps_failing_is_reported_until_it_recovers(
    faulty: FaultyServer, rollouts: list[Rollout], chaos: Helpers, fail: str
) -> None:
    faulty.tell(fail=fail)
    for answer in faulty.post_all(rollouts):
        assert answer.status == 500, answer
        assert answer.body["error"]["type"] == "scoring_failed"
        assert "Traceback" not in answer.body["error"]["message"]
    assert faulty.server.request("/readyz") == (503, {"status": "failing"})
    assert faulty.server.request("/healthz")[0] == 200
    faulty.tell()
    answers = faulty.post_all(rollouts)
    chaos.assert_rewarded(list(zip(rollouts, answers, strict=True)))
    assert faulty.server.request("/readyz") == (200, {"status": "ready"})


def test_a_request_that_takes_too_long_is_refused_and_its_work_dropped(
    start_faulty: Callable[..., FaultyServer], rollouts: list[Rollout], chaos: Helpers
) -> None:
    # A batch holds about one rollout, so the others wait in the queue.
    own = start_faulty("--request-timeout", "2", "--max-batch-tokens", "200")
    step_s = 3
    own.tell(step_s=step_s)
    answers = own.post_all(rollouts)
    latest_s = max(answer.elapsed_s for answer in answers)
    print(f"--request-timeout 2, a batch takes 3 s: the last 504 after {latest_s:.2f} s")
    assert {answer.status for answer in answers} == {504}
    assert {answer.body["error"]["type"] for answer in answers} == {"request_timed_out"}
    assert latest_s < step_s * len(rollouts) / 4  # they do not wait for the batches before them
    own.tell()
    # One batch is in the scorer; the others are dropped before they get there.
    chaos.wait_until(lambda: own.health["queued_rollouts"] == 0, within_s=10)
    assert own.health["batches"] <= 2
    answers = own.post_all(rollouts)
    chaos.assert_rewarded(list(zip(rollouts, answers, strict=True)))
    assert own.stop() == 0


def _count_tokens(query: list[str], prompts: list[str], labels: list[str]) -> int:
    """As the server estimates them: four bytes each."""
    return len(query[0] + prompts[0] + parse_label(labels[0]).answer + labels[0]) // 4


def test_requests_beyond_the_limit_are_refused(
    start_faulty: Callable[..., FaultyServer], rollouts: list[Rollout], chaos: Helpers
) -> None:
    sizes = [_count_tokens(**rollout.payload) for rollout in rollouts]
    num_held = 20
    own = start_faulty("--max-queued-tokens", str(sum(sizes[:num_held])))
    own.tell(step_s=2)
    with ThreadPoolExecutor(2) as background:
        held = background.submit(own.post_all, rollouts[:num_held])
        chaos.wait_until(lambda: own.health["in_flight"] == num_held)
        refused = own.post_all(rollouts[num_held:])
        answers = held.result()
    refused_s = max(answer.elapsed_s for answer in refused)
    print(f"{num_held} held, {len(refused)} refused within {refused_s:.2f} s")
    assert {answer.status for answer in refused} == {503}
    assert {answer.body["error"]["type"] for answer in refused} == {"overloaded"}
    assert refused_s < max(answer.elapsed_s for answer in answers)  # at once, not in their turn
    chaos.assert_rewarded(list(zip(rollouts[:num_held], answers, strict=True)))
    own.tell()
    for start in range(0, len(rollouts), num_held // 2):
        some = rollouts[start : start + num_held // 2]
        chaos.assert_rewarded(list(zip(some, own.post_all(some), strict=True)))
    assert own.stop() == 0
