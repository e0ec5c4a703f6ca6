"""Several scorers on one queue: they share, join and leave."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from reward_server.errors import NotReady
from reward_server.pipeline import jobs as jobs_module
from reward_server.pipeline.batch_counters import BatcherCounters
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.jobs import Job, JobQueue
from reward_server.pipeline.workers import Worker

if TYPE_CHECKING:
    from tests.reward_server.pipeline.conftest import BatcherHelpers


def test_jobs_wait_until_there_is_a_scorer(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    batcher = batcher_of()
    futures = batchers.submit(batcher, range(20))
    time.sleep(0.05)
    assert not any(future.done() for future in futures.values())
    assert (batcher.num_scorers, batcher.queue.num_rollouts) == (0, 20)
    batcher.add_scorer(batchers.StandIn())
    batchers.assert_all_right(futures)


def test_every_job_is_scored_once(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    scorers = [batchers.StandIn(1e-5) for _ in range(5)]
    batcher = batcher_of(*scorers, max_batch_tokens=40)
    batchers.assert_all_right(batchers.submit(batcher, range(600)))
    assert Counter(v for s in scorers for batch in s.batches for v in batch) == dict.fromkeys(
        range(600), 1
    )
    assert batcher.counters.num_sequences == 600
    assert 0 < batcher.counters.find_busy_share(5) <= 1


def test_idle_scorers_divide_what_waits(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    scorers = [batchers.StandIn(hold=True) for _ in range(4)]
    batcher = batcher_of(*scorers)
    first = batchers.submit(batcher, range(4))  # one for each, and all of them work
    for scorer in scorers:
        scorer.wait_for_batch()
    rest = batchers.submit(batcher, range(4, 104))
    scorers[0].release(1)
    scorers[0].wait_for_batch()
    # The other three come back soon: they count half each.
    assert len(scorers[0].batches[1]) == 100 // 2.5
    for scorer in scorers:
        scorer.release()
    batchers.assert_all_right(first | rest)


def test_a_burst_is_spread_over_all_idle_scorers(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    scorers = [batchers.StandIn(hold=True) for _ in range(4)]
    batcher = batcher_of()
    futures = batchers.submit(batcher, range(100))
    with batcher._changed:  # no scorer begins before all are there
        for scorer in scorers:
            batcher.add_scorer(scorer)
    for scorer in scorers:
        scorer.wait_for_batch()
        scorer.release()
    batchers.assert_all_right(futures)


def test_few_rollouts_are_not_divided(batchers: BatcherHelpers) -> None:
    queue = JobQueue(1_000_000)
    for value in range(100):
        queue.put(Job([batchers.sequence(value)], lambda: False))
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs_module, "_MIN_SHARE_TOKENS", 60)
        while queue.has_batch:
            sizes.append(len(queue.take(object(), is_only=False, num_sharing=64)))
    assert sizes == [30, 30, 30, 10]


def test_a_fast_and_a_slow_scorer_share_in_proportion(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    fast, slow = batchers.StandIn(0.0002), batchers.StandIn(0.001)
    batcher = batcher_of(fast, slow, max_batch_tokens=20)
    batchers.assert_all_right(batchers.submit(batcher, range(1000, 2000)))
    assert 3 < fast.num_scored / slow.num_scored < 7.5


def test_a_long_pack_does_not_hold_up_short_ones(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    holding, other = batchers.StandIn(hold=True), batchers.StandIn()
    batcher = batcher_of(holding)
    long = batcher.submit([batchers.sequence(1, 5000)])
    holding.wait_for_batch()
    batcher.add_scorer(other)
    batchers.assert_all_right(batchers.submit(batcher, range(100, 150)))
    assert not long.done()
    holding.release()
    assert batchers.values(long) == [[1]]


def test_a_removed_scorer_finishes_its_pack(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    scorer, other = batchers.StandIn(hold=True), batchers.StandIn()
    batcher = batcher_of()
    ended = threading.Event()
    worker = batcher.add_scorer(scorer, on_end=ended.set)
    assert isinstance(worker, Worker)
    held = batcher.submit([batchers.sequence(1)])
    scorer.wait_for_batch()
    batcher.remove_scorer(worker)
    batcher.add_scorer(other)
    batchers.assert_all_right(batchers.submit(batcher, range(2, 40)))
    assert not ended.is_set()
    scorer.release()
    assert batchers.values(held) == [[1]]
    assert ended.wait(batchers.WAIT_S)
    assert scorer.num_scored == 1


def test_an_idle_scorer_is_removed(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    scorer, other = batchers.StandIn(), batchers.StandIn()
    batcher = batcher_of(other)
    ended = threading.Event()
    worker = batcher.add_scorer(scorer, on_end=ended.set)
    assert worker
    batcher.remove_scorer(worker)
    assert ended.wait(batchers.WAIT_S)
    batchers.assert_all_right(batchers.submit(batcher, range(50)))
    assert scorer.num_scored == 0


def test_closing_without_a_scorer_refuses_what_waits(batchers: BatcherHelpers) -> None:
    closed = threading.Event()
    batcher = Batcher(None, 100, on_close=closed.set)
    job, behind = (
        batcher.submit([batchers.sequence(1)]),
        batcher.submit_behind([batchers.sequence(2)]),
    )
    assert batcher.close(batchers.WAIT_S)
    with pytest.raises(NotReady):
        job.result(0)
    assert behind.exception(0) is not None
    assert closed.is_set()
    assert batcher.add_scorer(batchers.StandIn()) is None


def test_closing_waits_for_all_scorers(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    scorers = [batchers.StandIn(hold=True) for _ in range(3)]
    num_closed = threading.Semaphore(0)
    batcher = batcher_of(*scorers, on_close=num_closed.release)
    futures = batchers.submit(batcher, range(3))
    for scorer in scorers:
        scorer.wait_for_batch()
    assert not batcher.close(0.01)
    assert not num_closed.acquire(blocking=False)
    for scorer in scorers:
        scorer.release()
    assert batcher.close(batchers.WAIT_S)
    assert batcher.close(batchers.WAIT_S)
    assert num_closed.acquire(blocking=False)
    assert not num_closed.acquire(blocking=False), "it was called once"
    batchers.assert_all_right(futures)


def test_each_scorer_has_counters_of_its_own(batchers: BatcherHelpers) -> None:
    batcher = Batcher(None, 1_000_000)
    own = [BatcherCounters(), BatcherCounters()]
    for counters in own:
        batcher.add_scorer(batchers.StandIn(1e-5), counters)
    batchers.assert_all_right(batchers.submit(batcher, range(300)))
    assert batcher.close(batchers.WAIT_S)
    assert sum(counters.num_tokens for counters in own) == batcher.counters.num_tokens == 600
    assert all(0 <= counters.busy_share <= 1 for counters in own)


def test_the_busy_share_is_that_of_all_scorers(batchers: BatcherHelpers) -> None:
    counters = BatcherCounters()
    counters.add_batch([batchers.sequence(1)], 10.2, 10.4)
    counters.add_batch([batchers.sequence(1)], 10.0, 11.0)  # began earlier, ended later
    assert counters.find_busy_share(2) == pytest.approx(0.6)
