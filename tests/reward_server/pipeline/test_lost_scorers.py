"""Scorers of one queue fail and are lost: no job is."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from reward_server.errors import ClientGone, ScoringFailed
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.jobs import Job, JobQueue, Logprobs
from sar.scoring import TokenSequence

if TYPE_CHECKING:
    from tests.reward_server.pipeline.conftest import BatcherHelpers, StandIn


def test_the_pack_of_a_lost_scorer_is_given_to_another(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    dying, other = batchers.StandIn(hold=True), batchers.StandIn(hold=True)
    batcher = batcher_of(dying)
    first = batchers.submit(batcher, [0])
    dying.wait_for_batch()
    rest = batchers.submit(batcher, range(1, 30))
    dying.release(1)
    dying.wait_for_batch()  # with 29 rollouts
    batcher.add_scorer(other)
    dying.dies.set()
    dying.release()
    other.release()
    batchers.assert_all_right(first | rest)
    assert {len(batch) for batch in other.batches} == {1}, "each is scored alone"
    assert batcher.num_scorers == 1
    assert not batcher.is_failing
    assert batchers.values(batcher.submit([batchers.sequence(99)])) == [[99]]


def test_a_lost_job_that_nobody_wants_any_more_is_not_scored(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    """Its request has timed out while the scorer was lost."""
    dying, other = batchers.StandIn(hold=True), batchers.StandIn()
    batcher = batcher_of(dying)
    (unwanted,) = batchers.submit(batcher, [1]).values()
    dying.wait_for_batch()
    assert not unwanted.cancel(), "it is being scored"
    dying.dies.set()
    dying.release()
    batcher.add_scorer(other)
    batchers.assert_all_right(batchers.submit(batcher, range(2, 9)))
    with pytest.raises(ClientGone):
        unwanted.result(batchers.WAIT_S)
    assert 1 not in [value for batch in other.batches for value in batch]


def test_a_job_behind_others_is_scored_by_the_next_scorer(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    dying = batchers.StandIn(hold=True)
    batcher = batcher_of(dying)
    behind = batcher.submit_behind([batchers.sequence(1)])
    dying.wait_for_batch()
    dying.dies.set()
    dying.release()
    batchers.wait_until(lambda: batcher.num_scorers == 0)
    assert not behind.done()
    batcher.add_scorer(batchers.StandIn())
    assert batchers.values(behind) == [[1]]


def test_a_job_behind_others_ends_two_scorers_at_most(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    batcher = batcher_of(*(batchers.StandIn() for _ in range(3)))
    with pytest.raises(ScoringFailed, match="the scorer ended"):
        batcher.submit_behind([batchers.sequence(batchers.POISON)]).result(batchers.WAIT_S)
    batchers.wait_until(lambda: batcher.num_scorers == 1)
    assert batchers.values(batcher.submit([batchers.sequence(5)])) == [[5]]


def test_a_poisoned_rollout_is_an_error_for_itself_only(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    """Whatever scores it ends. Each lost scorer is replaced, as the pool does."""
    batcher = batcher_of()
    lost: list[StandIn] = []

    def add() -> None:
        scorer = batchers.StandIn(1e-4)

        def replace() -> None:
            lost.append(scorer)
            add()

        batcher.add_scorer(scorer, on_end=replace)

    for _ in range(3):
        add()
    before = batchers.submit(batcher, range(40))
    poisoned = batcher.submit([batchers.sequence(batchers.POISON)])
    after = batchers.submit(batcher, range(40, 80))
    with pytest.raises(ScoringFailed, match="5 scorers ended while they scored this rollout alone"):
        poisoned.result(batchers.WAIT_S)
    batchers.assert_all_right(before | after)
    ended = [scorer for scorer in lost if batchers.POISON in scorer.batches[-1]]
    assert 5 <= len(ended) <= 6, "one may have had it in a pack"
    batchers.wait_until(lambda: batcher.num_scorers == 3)
    batchers.assert_all_right(batchers.submit(batcher, range(200, 220)))


def test_when_all_scorers_are_lost_jobs_wait_for_the_next(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    scorers = [batchers.StandIn(hold=True) for _ in range(3)]
    batcher = batcher_of(*scorers)
    futures = batchers.submit(batcher, range(30))
    for scorer in scorers:
        scorer.dies.set()
        scorer.release()
    batchers.wait_until(lambda: batcher.num_scorers == 0)
    assert not any(future.done() for future in futures.values())
    assert batcher.queue.num_rollouts == 30
    batcher.add_scorer(batchers.StandIn())
    batchers.assert_all_right(futures)


def test_a_job_that_fails_is_tried_by_another_scorer(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    broken, good = batchers.StandIn(hold=True), batchers.StandIn(hold=True)
    broken.is_broken = True
    faulty = threading.Event()
    batcher = batcher_of()
    batcher.add_scorer(broken, on_faulty=faulty.set)
    futures = batchers.submit(batcher, range(9))
    broken.wait_for_batch()
    batcher.add_scorer(good)
    broken.release()
    good.release()
    batchers.assert_all_right(futures)
    assert faulty.wait(batchers.WAIT_S), "the pool is told, and starts it again"
    assert not batcher.is_failing


def test_a_job_that_fails_on_two_scorers_is_an_error_and_blames_none(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    faulty = threading.Event()
    batcher = batcher_of()
    for _ in range(2):
        batcher.add_scorer(batchers.StandIn(), on_faulty=faulty.set)
    for _ in range(10):
        with pytest.raises(ScoringFailed, match="device-side assert"):
            batcher.submit([batchers.sequence(batchers.BAD)]).result(batchers.WAIT_S)
    assert batchers.values(batcher.submit([batchers.sequence(1)])) == [[1]]
    assert not faulty.is_set()


def test_a_scorer_that_panics_goes_on(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    """What a library in Rust raises is no Exception."""

    class Panic(BaseException):
        pass

    scorer = batchers.StandIn()
    score = scorer.response_logprobs

    def panic(sequences: Sequence[TokenSequence]) -> Logprobs:
        if any(batchers.BAD in s.response_ids for s in sequences):
            raise Panic("index out of bounds")
        return score(sequences)

    scorer.response_logprobs = panic  # type: ignore[method-assign]
    batcher = batcher_of(scorer)
    for submit_job in (batcher.submit, batcher.submit_behind):
        with pytest.raises(ScoringFailed, match="index out of bounds"):
            submit_job([batchers.sequence(batchers.BAD)]).result(batchers.WAIT_S)
    assert batchers.values(batcher.submit([batchers.sequence(1)])) == [[1]]


def test_a_job_that_may_be_tried_again_in_this_moment_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch, batchers: BatcherHelpers
) -> None:
    """Its time comes after the queue was looked at, and before the pause is asked for."""
    queue, worker = JobQueue(100), object()
    job = Job([batchers.sequence(1)], lambda: False)
    job.not_before_s = 50.0
    queue.put_back([job])
    monkeypatch.setattr(time, "monotonic", lambda: 49.9)
    assert not queue.has_batch_for(worker, is_only=False)
    assert queue.pause_s == pytest.approx(0.1)
    monkeypatch.setattr(time, "monotonic", lambda: 50.1)
    assert queue.pause_s == 0
    assert queue.has_batch_for(worker, is_only=False)
    assert queue.take(worker, is_only=False) == [job]


def test_nothing_is_lost_while_scorers_come_and_go(
    batcher_of: Callable[..., Batcher], batchers: BatcherHelpers
) -> None:
    batcher = batcher_of(max_batch_tokens=32)
    choices = random.Random(7)
    alive: list[StandIn] = []
    futures: dict[int, Future[Logprobs]] = {}
    for step in range(60):
        futures |= batchers.submit(batcher, range(10_000 + 10 * step, 10_010 + 10 * step))
        alive = [scorer for scorer in alive if not scorer.is_lost]
        if len(alive) < 4:
            alive.append(batchers.StandIn(1e-5))
            batcher.add_scorer(alive[-1])
        if choices.random() < 0.25:
            choices.choice(alive).dies.set()
        time.sleep(0.002)
    batcher.add_scorer(batchers.StandIn())
    batchers.assert_all_right(futures)
