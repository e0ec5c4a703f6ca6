"""Several scorers on one queue: they share, join and leave, fail and are lost."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait

import numpy as np
import pytest

from reward_server.errors import NotReady, ScoringFailed
from reward_server.pipeline import batcher as batcher_module
from reward_server.pipeline.batch_counters import BatcherCounters
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.jobs import Job, JobQueue, Logprobs
from reward_server.pipeline.workers import ScorerLost, Worker
from sar.scoring import TokenSequence

WAIT_S = 60.0
POISON, BAD = 666, 777


class StandIn:
    """Gives each sequence its response ids back, as floats.

    A sequence with POISON ends it. With `is_broken`, all fail; else those with BAD.
    """

    max_context_tokens = None

    def __init__(self, seconds_per_token: float = 0.0, *, hold: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.is_broken = False
        self.dies = threading.Event()
        self.started = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._hold = hold
        self._seconds_per_token = seconds_per_token
        self.is_lost = False

    @property
    def num_scored(self) -> int:
        return sum(map(len, self.batches))

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
        assert not self.is_lost, "a lost scorer is not used again"
        self.batches.append([s.response_ids[0] for s in sequences])
        self.started.release()
        if self._hold:
            assert self._go.acquire(timeout=WAIT_S)
        time.sleep(self._seconds_per_token * sum(map(len, sequences)))
        if self.dies.is_set() or any(POISON in s.response_ids for s in sequences):
            self.is_lost = True
            raise ScorerLost("its process was killed")
        if self.is_broken or any(BAD in s.response_ids for s in sequences):
            raise RuntimeError("device-side assert")
        return [np.array(s.response_ids, np.float32) for s in sequences]

    def wait_for_batch(self) -> None:
        assert self.started.acquire(timeout=WAIT_S)

    def release(self, num_batches: int = 1000) -> None:
        self._go.release(num_batches)


def sequence(value: int, num_tokens: int = 2) -> TokenSequence:
    return TokenSequence([1] * (num_tokens - 1), [value])


def values(future: Future[Logprobs]) -> list[list[float]]:
    return [array.tolist() for array in future.result(WAIT_S)]


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not become true"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "_RETRY_S", 0.02)


@pytest.fixture
def batcher_of() -> Iterator[Callable[..., Batcher]]:
    """Makes a batcher over scorers, and closes it after the test."""
    made: list[tuple[tuple[StandIn, ...], Batcher]] = []

    def make(*scorers: StandIn, max_batch_tokens: int = 1_000_000) -> Batcher:
        batcher = Batcher(None, max_batch_tokens)
        for scorer in scorers:
            assert batcher.add_scorer(scorer)
        made.append((scorers, batcher))
        return batcher

    yield make
    for scorers, batcher in made:
        for scorer in scorers:
            scorer.release()
        assert batcher.close(WAIT_S)


def assert_all_right(futures: dict[int, Future[Logprobs]]) -> None:
    wait(futures.values(), WAIT_S)
    assert {value: values(future) for value, future in futures.items()} == {
        value: [[value]] for value in futures
    }


def submit(batcher: Batcher, wanted: Sequence[int]) -> dict[int, Future[Logprobs]]:
    return {value: batcher.submit([sequence(value)]) for value in wanted}


def test_jobs_wait_until_there_is_a_scorer(batcher_of: Callable[..., Batcher]) -> None:
    batcher = batcher_of()
    futures = submit(batcher, range(20))
    time.sleep(0.05)
    assert not any(future.done() for future in futures.values())
    assert (batcher.num_scorers, batcher.queue.num_rollouts) == (0, 20)
    batcher.add_scorer(StandIn())
    assert_all_right(futures)


def test_every_job_is_scored_once(batcher_of: Callable[..., Batcher]) -> None:
    scorers = [StandIn(1e-5) for _ in range(5)]
    batcher = batcher_of(*scorers, max_batch_tokens=40)
    assert_all_right(submit(batcher, range(600)))
    assert Counter(v for s in scorers for batch in s.batches for v in batch) == dict.fromkeys(
        range(600), 1
    )
    assert batcher.counters.num_sequences == 600
    assert 0 < batcher.counters.find_busy_share(5) <= 1


def test_idle_scorers_divide_what_waits(batcher_of: Callable[..., Batcher]) -> None:
    scorers = [StandIn(hold=True) for _ in range(4)]
    batcher = batcher_of(*scorers)
    first = submit(batcher, range(4))  # one for each, and all of them work
    for scorer in scorers:
        scorer.wait_for_batch()
    rest = submit(batcher, range(4, 104))
    scorers[0].release(1)
    scorers[0].wait_for_batch()
    # The other three come back soon: they count half each.
    assert len(scorers[0].batches[1]) == 100 // 2.5
    for scorer in scorers:
        scorer.release()
    assert_all_right(first | rest)


def test_a_burst_is_spread_over_all_idle_scorers(batcher_of: Callable[..., Batcher]) -> None:
    scorers = [StandIn(hold=True) for _ in range(4)]
    batcher = batcher_of()
    futures = submit(batcher, range(100))
    with batcher._changed:  # no scorer begins before all are there
        for scorer in scorers:
            batcher.add_scorer(scorer)
    for scorer in scorers:
        scorer.wait_for_batch()
        scorer.release()
    assert_all_right(futures)


def test_a_fast_and_a_slow_scorer_share_in_proportion(batcher_of: Callable[..., Batcher]) -> None:
    fast, slow = StandIn(0.0002), StandIn(0.001)
    batcher = batcher_of(fast, slow, max_batch_tokens=20)
    assert_all_right(submit(batcher, range(1000, 2000)))
    assert 3 < fast.num_scored / slow.num_scored < 7.5


def test_a_long_pack_does_not_hold_up_short_ones(batcher_of: Callable[..., Batcher]) -> None:
    holding, other = StandIn(hold=True), StandIn()
    batcher = batcher_of(holding)
    long = batcher.submit([sequence(1, 5000)])
    holding.wait_for_batch()
    batcher.add_scorer(other)
    assert_all_right(submit(batcher, range(100, 150)))
    assert not long.done()
    holding.release()
    assert values(long) == [[1]]


def test_the_pack_of_a_lost_scorer_is_given_to_another(batcher_of: Callable[..., Batcher]) -> None:
    dying, other = StandIn(hold=True), StandIn(hold=True)
    batcher = batcher_of(dying)
    first = submit(batcher, [0])
    dying.wait_for_batch()
    rest = submit(batcher, range(1, 30))
    dying.release(1)
    dying.wait_for_batch()  # with 29 rollouts
    batcher.add_scorer(other)
    dying.dies.set()
    dying.release()
    other.release()
    assert_all_right(first | rest)
    assert {len(batch) for batch in other.batches} == {1}, "each is scored alone"
    assert batcher.num_scorers == 1
    assert not batcher.is_failing
    assert values(batcher.submit([sequence(99)])) == [[99]]


def test_a_job_behind_others_is_scored_by_the_next_scorer(
    batcher_of: Callable[..., Batcher],
) -> None:
    dying = StandIn(hold=True)
    batcher = batcher_of(dying)
    behind = batcher.submit_behind([sequence(1)])
    dying.wait_for_batch()
    dying.dies.set()
    dying.release()
    wait_until(lambda: batcher.num_scorers == 0)
    assert not behind.done()
    batcher.add_scorer(StandIn())
    assert values(behind) == [[1]]


def test_a_job_behind_others_ends_two_scorers_at_most(batcher_of: Callable[..., Batcher]) -> None:
    batcher = batcher_of(*(StandIn() for _ in range(3)))
    with pytest.raises(ScoringFailed, match="the scorer ended"):
        batcher.submit_behind([sequence(POISON)]).result(WAIT_S)
    wait_until(lambda: batcher.num_scorers == 1)
    assert values(batcher.submit([sequence(5)])) == [[5]]


def test_a_poisoned_rollout_is_an_error_for_itself_only(
    batcher_of: Callable[..., Batcher],
) -> None:
    """Whatever scores it ends. Each lost scorer is replaced, as the pool does."""
    batcher = batcher_of()
    lost: list[StandIn] = []

    def add() -> None:
        scorer = StandIn(1e-4)

        def replace() -> None:
            lost.append(scorer)
            add()

        batcher.add_scorer(scorer, on_end=replace)

    for _ in range(3):
        add()
    before = submit(batcher, range(40))
    poisoned = batcher.submit([sequence(POISON)])
    after = submit(batcher, range(40, 80))
    with pytest.raises(ScoringFailed, match="5 scorers ended while they scored this rollout alone"):
        poisoned.result(WAIT_S)
    assert_all_right(before | after)
    ended = [scorer for scorer in lost if POISON in scorer.batches[-1]]
    assert 5 <= len(ended) <= 6, "one may have had it in a pack"
    assert batcher.num_scorers == 3
    assert_all_right(submit(batcher, range(200, 220)))


def test_when_all_scorers_are_lost_jobs_wait_for_the_next(
    batcher_of: Callable[..., Batcher],
) -> None:
    scorers = [StandIn(hold=True) for _ in range(3)]
    batcher = batcher_of(*scorers)
    futures = submit(batcher, range(30))
    for scorer in scorers:
        scorer.dies.set()
        scorer.release()
    wait_until(lambda: batcher.num_scorers == 0)
    assert not any(future.done() for future in futures.values())
    assert batcher.queue.num_rollouts == 30
    batcher.add_scorer(StandIn())
    assert_all_right(futures)


def test_a_job_that_fails_is_tried_by_another_scorer(batcher_of: Callable[..., Batcher]) -> None:
    broken, good = StandIn(hold=True), StandIn(hold=True)
    broken.is_broken = True
    faulty = threading.Event()
    batcher = batcher_of()
    batcher.add_scorer(broken, on_faulty=faulty.set)
    futures = submit(batcher, range(9))
    broken.wait_for_batch()
    batcher.add_scorer(good)
    broken.release()
    good.release()
    assert_all_right(futures)
    assert faulty.wait(WAIT_S), "the pool is told, and starts it again"
    assert not batcher.is_failing


def test_a_job_that_fails_on_two_scorers_is_an_error_and_blames_none(
    batcher_of: Callable[..., Batcher],
) -> None:
    faulty = threading.Event()
    batcher = batcher_of()
    for _ in range(2):
        batcher.add_scorer(StandIn(), on_faulty=faulty.set)
    for _ in range(10):
        with pytest.raises(ScoringFailed, match="device-side assert"):
            batcher.submit([sequence(BAD)]).result(WAIT_S)
    assert values(batcher.submit([sequence(1)])) == [[1]]
    assert not faulty.is_set()


def test_a_scorer_that_panics_goes_on(batcher_of: Callable[..., Batcher]) -> None:
    """What a library in Rust raises is no Exception."""

    class Panic(BaseException):
        pass

    class Panics(StandIn):
        def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
            if any(BAD in s.response_ids for s in sequences):
                raise Panic("index out of bounds")
            return super().response_logprobs(sequences)

    batcher = batcher_of(Panics())
    for submit_job in (batcher.submit, batcher.submit_behind):
        with pytest.raises(ScoringFailed, match="index out of bounds"):
            submit_job([sequence(BAD)]).result(WAIT_S)
    assert values(batcher.submit([sequence(1)])) == [[1]]


def test_a_job_that_may_be_tried_again_in_this_moment_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its time comes after the queue was looked at, and before the pause is asked for."""
    queue, worker = JobQueue(100), object()
    job = Job([sequence(1)], lambda: False)
    job.not_before_s = 50.0
    queue.put_back([job])
    monkeypatch.setattr(time, "monotonic", lambda: 49.9)
    assert not queue.has_batch_for(worker, is_only=False)
    assert queue.pause_s == pytest.approx(0.1)
    monkeypatch.setattr(time, "monotonic", lambda: 50.1)
    assert queue.pause_s == 0
    assert queue.has_batch_for(worker, is_only=False)
    assert queue.take(worker, is_only=False) == [job]


def test_a_removed_scorer_finishes_its_pack(batcher_of: Callable[..., Batcher]) -> None:
    scorer, other = StandIn(hold=True), StandIn()
    batcher = batcher_of()
    ended = threading.Event()
    worker = batcher.add_scorer(scorer, on_end=ended.set)
    assert isinstance(worker, Worker)
    held = batcher.submit([sequence(1)])
    scorer.wait_for_batch()
    batcher.remove_scorer(worker)
    batcher.add_scorer(other)
    assert_all_right(submit(batcher, range(2, 40)))
    assert not ended.is_set()
    scorer.release()
    assert values(held) == [[1]]
    assert ended.wait(WAIT_S)
    assert scorer.num_scored == 1


def test_an_idle_scorer_is_removed(batcher_of: Callable[..., Batcher]) -> None:
    scorer, other = StandIn(), StandIn()
    batcher = batcher_of(other)
    ended = threading.Event()
    worker = batcher.add_scorer(scorer, on_end=ended.set)
    assert worker
    batcher.remove_scorer(worker)
    assert ended.wait(WAIT_S)
    assert_all_right(submit(batcher, range(50)))
    assert scorer.num_scored == 0


def test_closing_without_a_scorer_refuses_what_waits() -> None:
    closed = threading.Event()
    batcher = Batcher(None, 100, on_close=closed.set)
    job, behind = batcher.submit([sequence(1)]), batcher.submit_behind([sequence(2)])
    assert batcher.close(WAIT_S)
    with pytest.raises(NotReady):
        job.result(0)
    assert behind.exception(0) is not None
    assert closed.is_set()
    assert batcher.add_scorer(StandIn()) is None


def test_closing_waits_for_all_scorers() -> None:
    scorers = [StandIn(hold=True) for _ in range(3)]
    batcher = Batcher(None, 1_000_000)
    for scorer in scorers:
        batcher.add_scorer(scorer)
    futures = submit(batcher, range(3))
    for scorer in scorers:
        scorer.wait_for_batch()
    assert not batcher.close(0.01)
    for scorer in scorers:
        scorer.release()
    assert batcher.close(WAIT_S)
    assert_all_right(futures)


def test_each_scorer_has_counters_of_its_own() -> None:
    batcher = Batcher(None, 1_000_000)
    own = [BatcherCounters(), BatcherCounters()]
    for counters in own:
        batcher.add_scorer(StandIn(1e-5), counters)
    assert_all_right(submit(batcher, range(300)))
    assert batcher.close(WAIT_S)
    assert sum(counters.num_tokens for counters in own) == batcher.counters.num_tokens == 600
    assert all(0 <= counters.busy_share <= 1 for counters in own)


def test_the_busy_share_is_that_of_all_scorers() -> None:
    counters = BatcherCounters()
    counters.add_batch([sequence(1)], 10.2, 10.4)
    counters.add_batch([sequence(1)], 10.0, 11.0)  # began earlier, ended later
    assert counters.find_busy_share(2) == pytest.approx(0.6)


def test_nothing_is_lost_while_scorers_come_and_go(batcher_of: Callable[..., Batcher]) -> None:
    batcher = batcher_of(max_batch_tokens=32)
    choices = random.Random(7)
    alive: list[StandIn] = []
    futures: dict[int, Future[Logprobs]] = {}
    for step in range(60):
        futures |= submit(batcher, range(10_000 + 10 * step, 10_010 + 10 * step))
        alive = [scorer for scorer in alive if not scorer.is_lost]
        if len(alive) < 4:
            alive.append(StandIn(1e-5))
            batcher.add_scorer(alive[-1])
        if choices.random() < 0.25:
            choices.choice(alive).dies.set()
        time.sleep(0.002)
    batcher.add_scorer(StandIn())
    assert_all_right(futures)
