"""The queue in front of the scorer, with scorers that do as they are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_server.errors import ClientGone, NotReady, ScoringFailed
from reward_server.pipeline.batch_counters import BatcherCounters
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.jobs import Logprobs
from sar.scoring import TokenSequence

WAIT_S = 60.0

MakeBatcher = Callable[..., Batcher]


class StandInScorer:
    """Gives each sequence its response ids back, as floats; notes its batches.

    With `hold`, every batch waits for one `release()`.
    """

    max_context_tokens = None

    def __init__(self, *, hold: bool = False) -> None:
        self.batches: list[list[TokenSequence]] = []
        self.threads: set[int] = set()
        self.started = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._hold = hold

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
        self.threads.add(threading.get_ident())
        self.batches.append(list(sequences))
        self.started.release()
        if self._hold:
            assert self._go.acquire(timeout=WAIT_S)
        if any(666 in s.response_ids for s in sequences):
            raise RuntimeError("out of memory")
        return [np.array(s.response_ids, np.float32) for s in sequences]

    def wait_for_batch(self) -> None:
        assert self.started.acquire(timeout=WAIT_S)

    def release(self, num_batches: int = 1) -> None:
        self._go.release(num_batches)


def sequence(value: int, num_tokens: int = 2) -> TokenSequence:
    return TokenSequence([1] * (num_tokens - 1), [value])


def values(future: Future[Logprobs]) -> list[list[float]]:
    return [array.tolist() for array in future.result(WAIT_S)]


@pytest.fixture
def batcher_of() -> Iterator[MakeBatcher]:
    """Makes batchers over scorers, and closes them after the test."""
    made: list[tuple[StandInScorer, Batcher]] = []

    def make(scorer: StandInScorer, max_batch_tokens: int = 1_000_000) -> Batcher:
        made.append((scorer, Batcher(scorer, max_batch_tokens)))
        return made[-1][1]

    yield make
    for scorer, batcher in made:
        scorer.release(1000)
        batcher.close()


def test_an_idle_batcher_starts_at_once(batcher_of: MakeBatcher) -> None:
    batcher = batcher_of(StandInScorer())
    durations_s = []
    for value in range(20):
        start_s = time.perf_counter()
        assert values(batcher.submit([sequence(value)])) == [[value]]
        durations_s.append(time.perf_counter() - start_s)
    assert sorted(durations_s)[10] < WAIT_S / 2, "there is no timer to wait for"


def test_what_arrives_during_a_batch_is_the_next_one(batcher_of: MakeBatcher) -> None:
    scorer = StandInScorer(hold=True)
    batcher = batcher_of(scorer)
    first = batcher.submit([sequence(0)])
    scorer.wait_for_batch()
    with ThreadPoolExecutor(64) as clients:
        futures = list(clients.map(lambda v: batcher.submit([sequence(v)]), range(1, 257)))
    scorer.release(1000)
    assert values(first) == [[0]]
    assert [values(future) for future in futures] == [[[value]] for value in range(1, 257)]
    assert [len(batch) for batch in scorer.batches] == [1, 256]
    assert (batcher.counters.num_batches, batcher.counters.num_sequences) == (2, 257)
    assert len(scorer.threads) == 1


def test_a_flood_of_single_jobs_is_a_few_batches(batcher_of: MakeBatcher) -> None:
    class SlowScorer(StandInScorer):
        def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
            time.sleep(0.05)
            return super().response_logprobs(sequences)

    scorer = SlowScorer()
    batcher = batcher_of(scorer)

    def client(value: int) -> list[list[float]]:
        return values(batcher.submit([sequence(value)]))

    with ThreadPoolExecutor(256) as clients:
        assert list(clients.map(client, range(256))) == [[[value]] for value in range(256)]
    assert len(scorer.batches) <= 10


def test_results_come_in_the_order_of_each_jobs_sequences(batcher_of: MakeBatcher) -> None:
    scorer = StandInScorer(hold=True)
    batcher = batcher_of(scorer)
    batcher.submit([sequence(0)])
    scorer.wait_for_batch()
    three = batcher.submit([sequence(3), sequence(1), sequence(2)])
    none = batcher.submit([])
    two = batcher.submit([sequence(9), sequence(8)])
    assert values(none) == []
    scorer.release(1000)
    assert values(three) == [[3], [1], [2]]
    assert values(two) == [[9], [8]]
    scored = [s.response_ids[0] for s in scorer.batches[1]]
    assert scored == [3, 1, 2, 9, 8], "first come, first served"


def test_no_sequences_need_no_scorer(batcher_of: MakeBatcher) -> None:
    scorer = StandInScorer()
    assert values(batcher_of(scorer).submit([])) == []
    assert scorer.batches == []


def queued(batcher_of: MakeBatcher, sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Token counts of the batches that jobs of these sizes, queued together, end up in."""
    scorer = StandInScorer(hold=True)
    batcher = batcher_of(scorer, budget)
    batcher.submit([sequence(0)])
    scorer.wait_for_batch()
    futures = [batcher.submit([sequence(i, size)]) for i, size in enumerate(sizes, 1)]
    scorer.release(1000)
    assert [values(future) for future in futures] == [[[i]] for i in range(1, len(sizes) + 1)]
    return [[len(s) for s in batch] for batch in scorer.batches[1:]]


def test_a_batch_keeps_the_token_budget(batcher_of: MakeBatcher) -> None:
    assert queued(batcher_of, [40, 40, 40, 40, 50, 63], 100) == [[40, 40], [40, 40], [50], [63]]


def test_first_come_first_served_within_a_bucket(batcher_of: MakeBatcher) -> None:
    assert queued(batcher_of, [60, 33, 50, 40], 100) == [[60, 33], [50, 40]]


def test_short_jobs_go_first_and_longer_ones_fill_the_batch(batcher_of: MakeBatcher) -> None:
    assert queued(batcher_of, [70, 20, 3, 2, 98], 100) == [[3, 2, 20, 70], [98]]


@pytest.mark.parametrize("size", [101, 5000])
def test_a_job_beyond_the_budget_goes_alone(batcher_of: MakeBatcher, size: int) -> None:
    assert queued(batcher_of, [10, size, 10, 20], 100) == [[10, 10, 20], [size]]


def test_a_long_job_does_not_hold_up_a_hundred_short_ones(batcher_of: MakeBatcher) -> None:
    batches = queued(batcher_of, [4000, *[10] * 100], 1000)
    assert batches == [[10] * 100, [4000]]


def test_a_long_job_is_not_passed_over_for_ever(batcher_of: MakeBatcher) -> None:
    scorer = StandInScorer(hold=True)
    batcher = batcher_of(scorer, 100)
    batcher.submit([sequence(0, 100)])
    scorer.wait_for_batch()
    long = batcher.submit([sequence(1, 1000)])
    num_batches = 0
    while not long.done():
        # There is always a short job waiting, and each fills a batch.
        futures = [batcher.submit([sequence(2, 100)]) for _ in range(2)]
        scorer.release()
        scorer.wait_for_batch()
        num_batches += 1
        assert num_batches < 10
    assert [len(batch[0]) for batch in scorer.batches].index(1000) <= 4
    scorer.release(1000)
    assert values(long) == [[1]]
    assert all(values(future) == [[2]] for future in futures)


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=30), budget=st.integers(50, 400))
def test_every_job_is_scored_once_within_the_budget_and_in_its_buckets_order(
    sizes: list[int], budget: int
) -> None:
    scorer = StandInScorer(hold=True)
    batcher = Batcher(scorer, budget)
    batcher.submit([sequence(0)])
    scorer.wait_for_batch()
    futures = [batcher.submit([sequence(i, size + 1)]) for i, size in enumerate(sizes, 1)]
    scorer.release(1000)
    assert [values(future) for future in futures] == [[[i]] for i in range(1, len(sizes) + 1)]
    batcher.close()
    for batch in scorer.batches:
        assert sum(map(len, batch)) <= budget or len(batch) == 1
    order = [s for batch in scorer.batches[1:] for s in batch]
    for bucket in {len(s).bit_length() for s in order}:
        arrivals = [s.response_ids[0] for s in order if len(s).bit_length() == bucket]
        assert arrivals == sorted(arrivals)


def test_a_job_whose_client_has_gone_is_not_scored(batcher_of: MakeBatcher) -> None:
    scorer = StandInScorer(hold=True)
    batcher = batcher_of(scorer)
    batcher.submit([sequence(1)])
    scorer.wait_for_batch()
    has_gone = threading.Event()
    gone = batcher.submit([sequence(2)], has_gone.is_set)
    stays = batcher.submit([sequence(3)])
    has_gone.set()
    scorer.release(1000)
    with pytest.raises(ClientGone):
        gone.result(WAIT_S)
    assert values(stays) == [[3]]
    assert [s.response_ids for batch in scorer.batches for s in batch] == [[1], [3]]
    assert batcher.counters.num_abandoned == 1


def test_when_all_clients_have_gone_the_next_job_is_scored(batcher_of: MakeBatcher) -> None:
    scorer = StandInScorer()
    batcher = batcher_of(scorer)
    with pytest.raises(ClientGone):
        batcher.submit([sequence(2)], lambda: True).result(WAIT_S)
    assert values(batcher.submit([sequence(3)])) == [[3]]


def test_the_time_in_the_scorer_is_counted(batcher_of: MakeBatcher) -> None:
    class SlowScorer(StandInScorer):
        def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
            time.sleep(0.05)
            return super().response_logprobs(sequences)

    batcher = batcher_of(SlowScorer())
    assert batcher.counters.busy_share == 0
    start_s = time.monotonic()
    for value in range(3):
        values(batcher.submit([sequence(value, 7)]))
    assert batcher.counters.num_tokens == 21
    assert 0.15 <= batcher.counters.busy_s <= time.monotonic() - start_s
    assert 0 < batcher.counters.busy_share <= 1


def test_the_busy_share_is_that_of_the_latest_stretch_of_work() -> None:
    counters = BatcherCounters()
    counters.add_batch([sequence(1)], 10.0, 10.1)
    counters.add_batch([sequence(1)], 10.9, 11.0)
    assert counters.busy_share == pytest.approx(0.2)
    counters.add_batch([sequence(1)], 20.0, 21.0)
    counters.add_batch([sequence(1)], 21.5, 22.0)
    assert counters.busy_share == pytest.approx(0.75)
    assert counters.busy_s == pytest.approx(1.7)


def test_a_job_is_not_torn_apart(batcher_of: MakeBatcher) -> None:
    scorer = StandInScorer()
    job = [sequence(value, 60) for value in range(5)]
    assert values(batcher_of(scorer, 100).submit(job)) == [[value] for value in range(5)]
    assert scorer.batches == [job]


def test_a_failure_reaches_the_job_at_fault_and_no_other(batcher_of: MakeBatcher) -> None:
    scorer = StandInScorer(hold=True)
    batcher = batcher_of(scorer, 100)
    first = batcher.submit([sequence(1)])
    scorer.wait_for_batch()
    beside, bad = (batcher.submit([sequence(value, 50)]) for value in (2, 666))
    after = batcher.submit([sequence(3, 50)])
    scorer.release(1000)
    assert values(first) == [[1]]
    with pytest.raises(ScoringFailed, match="RuntimeError: out of memory"):
        bad.result(WAIT_S)
    assert values(beside) == [[2]]
    assert values(after) == [[3]]
    assert values(batcher.submit([sequence(4)])) == [[4]]


def test_a_client_that_gave_up_harms_nobody(batcher_of: MakeBatcher) -> None:
    scorer = StandInScorer(hold=True)
    batcher = batcher_of(scorer)
    batcher.submit([sequence(1)])
    scorer.wait_for_batch()
    gone, stays = batcher.submit([sequence(2)]), batcher.submit([sequence(3)])
    gone.cancel()
    scorer.release(1000)
    assert values(stays) == [[3]]
    assert values(batcher.submit([sequence(4)])) == [[4]]


def test_a_scorer_that_loses_results_is_a_failure_and_not_a_hang(batcher_of: MakeBatcher) -> None:
    class LosingScorer(StandInScorer):
        def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
            return super().response_logprobs(sequences)[: 0 if len(sequences) > 1 else 1]

    batcher = batcher_of(LosingScorer())
    with pytest.raises(ScoringFailed):
        batcher.submit([sequence(1), sequence(2)]).result(2)
    assert values(batcher.submit([sequence(3)])) == [[3]]


class CertaintyScorer(StandInScorer):
    """Gives self-certainties where they are asked for: those that it was told."""

    def __init__(self, certainties: Sequence[float]) -> None:
        super().__init__()
        self.certainties = certainties

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
        return [
            np.array([logprobs_T, self.certainties], np.float32)
            if s.wants_certainty
            else logprobs_T
            for s, logprobs_T in zip(sequences, super().response_logprobs(sequences), strict=True)
        ]


ASKING = TokenSequence([1], [2, 3], wants_certainty=True)


def test_sequences_that_ask_for_self_certainty_share_a_batch_with_others(
    batcher_of: MakeBatcher,
) -> None:
    scorer = CertaintyScorer([0.5, 0.25])
    mixed = batcher_of(scorer).submit([sequence(1), ASKING, sequence(4)])
    assert values(mixed) == [[1], [[2, 3], [0.5, 0.25]], [4]]
    assert [len(batch) for batch in scorer.batches] == [3]


@pytest.mark.parametrize(
    ("scorer", "reason"),
    [
        (StandInScorer(), r"shape \(2,\) instead of \(2, 2\)"),
        (CertaintyScorer([0.5, np.inf]), "not finite"),
        (CertaintyScorer([0.5, np.nan]), "not finite"),
    ],
)
def test_a_missing_or_broken_self_certainty_is_a_failure(
    scorer: StandInScorer, reason: str, batcher_of: MakeBatcher
) -> None:
    batcher = batcher_of(scorer)
    with pytest.raises(ScoringFailed, match=reason):
        batcher.submit([ASKING]).result(WAIT_S)
    assert values(batcher.submit([sequence(1)])) == [[1]]


def test_closing_finishes_what_is_queued() -> None:
    scorer = StandInScorer(hold=True)
    batcher = Batcher(scorer, 4)
    futures = [batcher.submit([sequence(value)]) for value in range(7)]
    scorer.wait_for_batch()
    closing = threading.Thread(target=batcher.close)
    closing.start()
    time.sleep(0.05)
    assert closing.is_alive(), "closed with jobs in the queue"
    scorer.release(1000)
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert [values(future) for future in futures] == [[[value]] for value in range(7)]


def test_a_closed_batcher_takes_no_jobs() -> None:
    batcher = Batcher(StandInScorer(), 100)
    batcher.close()
    batcher.close()
    with pytest.raises(NotReady, match="stopping"):
        batcher.submit([sequence(1)])


def test_a_batcher_without_jobs_closes() -> None:
    batcher = Batcher(StandInScorer(), 100)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    closing.join(WAIT_S)
    assert not closing.is_alive()
