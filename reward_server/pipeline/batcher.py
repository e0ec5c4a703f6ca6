"""One queue over all requests, so that rollouts which arrive one by one are scored together.

There is no timer: an idle engine starts at once with what is there, and what arrives while it works
is the next batch. Jobs wait in buckets of similar length, short ones first, so that a long rollout
does not hold up a hundred short ones; a bucket that was passed over a few times is next.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from reward_server.errors import ClientGone, NotReady, ScoringFailed
from reward_server.observe.metrics import Metrics
from sar.scoring import LogprobScorer, TokenSequence

# Batches that may go before a bucket whose jobs were there already.
_MAX_PASSED_OVER = 3
# A longer pause ends a stretch of work.
_PAUSE_S = 1.0
# So many calls of the scorer that fail one after the other are no accident.
_MAX_FAILURES = 5
# After this long without a failure it is worth another try: whoever sends no requests to a server
# that is not ready would never learn that it is.
_FAILING_S = 30.0

_log = logging.getLogger(__name__)

Logprobs = list[npt.NDArray[np.float32]]


@dataclass
class _Job:
    sequences: Sequence[TokenSequence]
    is_abandoned: Callable[[], bool]
    future: Future[Logprobs] = field(default_factory=Future)
    queued_at_s: float = field(default_factory=time.monotonic)

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def bucket(self) -> int:
        """Lengths from one power of two to the next share a bucket."""
        return max(map(len, self.sequences)).bit_length()


@dataclass
class _Bucket:
    jobs: deque[_Job] = field(default_factory=deque)
    times_passed_over: int = 0


@dataclass
class BatcherCounters:
    """What the engine has done since the start."""

    num_batches: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    num_abandoned: int = 0
    """Jobs left out because their client had gone."""
    busy_s: float = 0.0
    """Seconds in the scorer."""
    stretch_started_s: float = 0.0
    stretch_ended_s: float = 0.0
    stretch_busy_s: float = 0.0
    """The latest stretch of work, on the clock of `time.monotonic`, and the seconds of it in the
    scorer. Pauses of less than a second are part of a stretch."""

    @property
    def busy_share(self) -> float:
        """Share of the latest stretch of work that was spent in the scorer; 0 before the first."""
        elapsed_s = self.stretch_ended_s - self.stretch_started_s
        return self.stretch_busy_s / elapsed_s if elapsed_s else 0.0

    def add_batch(self, sequences: Sequence[TokenSequence], start_s: float, end_s: float) -> None:
        if start_s - self.stretch_ended_s > _PAUSE_S:
            self.stretch_started_s = start_s
            self.stretch_busy_s = 0.0
        self.stretch_ended_s = end_s
        self.stretch_busy_s += end_s - start_s
        self.busy_s += end_s - start_s
        self.num_batches += 1
        self.num_sequences += len(sequences)
        self.num_tokens += sum(map(len, sequences))


@dataclass(frozen=True)
class QueueState:
    """What waits to be scored."""

    num_rollouts: int
    num_tokens: int
    oldest_s: float
    """Seconds that the first of them has waited; 0 when there is none."""


class Batcher:
    """Feeds one scorer. Safe to use from many threads."""

    def __init__(
        self,
        scorer: LogprobScorer,
        max_batch_tokens: int,
        metrics: Metrics | None = None,
        counters: BatcherCounters | None = None,
    ) -> None:
        """
        Args:
            scorer: used from one thread only.
            max_batch_tokens: tokens handed to the scorer at once; a larger job goes alone.
            counters: those of the batcher before it, to go on with.
        """
        self._metrics = metrics or Metrics()
        self._num_failures_in_a_row = 0
        self._failed_at_s = 0.0
        self._scorer: LogprobScorer = scorer
        self._max_batch_tokens = max_batch_tokens
        self._buckets: dict[int, _Bucket] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self.counters = counters or BatcherCounters()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    def submit(
        self,
        sequences: Sequence[TokenSequence],
        is_abandoned: Callable[[], bool] = lambda: False,
    ) -> Future[Logprobs]:
        """Queues sequences to be scored together; the future gives their log-probabilities.

        Args:
            is_abandoned: asked just before scoring; the future of a job that nobody waits for any
                more raises `ClientGone`.
        Raises:
            NotReady: the batcher is closed.
        """
        job = _Job(sequences, is_abandoned)
        if not sequences:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._is_closed:
                raise NotReady("the server is stopping")
            self._buckets.setdefault(job.bucket, _Bucket()).jobs.append(job)
            self._changed.notify()
        return job.future

    @property
    def is_failing(self) -> bool:
        """Whether the scorer has failed again and again of late, and not been right since."""
        return (
            self._num_failures_in_a_row >= _MAX_FAILURES
            and time.monotonic() - self._failed_at_s < _FAILING_S
        )

    @property
    def queue(self) -> QueueState:
        with self._changed:
            jobs = [job for bucket in self._buckets.values() for job in bucket.jobs]
        oldest = min((job.queued_at_s for job in jobs), default=None)
        return QueueState(
            len(jobs),
            sum(job.num_tokens for job in jobs),
            0.0 if oldest is None else time.monotonic() - oldest,
        )

    def close(self, timeout_s: float | None = None) -> bool:
        """Takes no more jobs, finishes those in the queue, and lets go of the scorer's memory.
        False if it took too long."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._scorer = _Closed()
        return True

    def _run(self) -> None:
        while batch := self._next_batch():
            self._score(batch)

    def _score(self, jobs: Sequence[_Job], *, is_retry: bool = False) -> None:
        """Scores some jobs together; where that fails, each alone, so that one job which is too
        much for the scorer does not take the others with it, and one alone a second time."""
        sequences = [s for job in jobs for s in job.sequences]
        failure = None
        start_s = time.monotonic()
        try:
            results = self._scorer.response_logprobs(sequences)
            _check(results, sequences)
        except Exception as error:  # noqa: BLE001  whatever it is, these jobs must hear of it
            failure = error
        self._count(sequences, start_s, time.monotonic())
        if failure:
            self._recover(jobs, failure, is_retry=is_retry)
            return
        self._num_failures_in_a_row = 0
        remaining = iter(results)
        for job in jobs:
            job.future.set_result([next(remaining) for _ in job.sequences])

    def _recover(self, jobs: Sequence[_Job], failure: Exception, *, is_retry: bool) -> None:
        self._num_failures_in_a_row += 1
        self._failed_at_s = time.monotonic()
        trace = failure if self._num_failures_in_a_row == 1 else None
        _log.error("scoring %d rollouts failed: %r", len(jobs), failure, exc_info=trace)
        # Its frames hold the tensors of the failed call, for which there may have been no room.
        traceback.clear_frames(failure.__traceback__)
        if len(jobs) > 1:
            for job in jobs:
                self._score([job])
        elif not is_retry:
            self._score(jobs, is_retry=True)
        else:
            message = f"the scorer failed: {type(failure).__name__}: {failure}"
            jobs[0].future.set_exception(ScoringFailed(message))

    def _count(self, sequences: Sequence[TokenSequence], start_s: float, end_s: float) -> None:
        self.counters.add_batch(sequences, start_s, end_s)
        self._metrics.add_batch(len(sequences), sum(map(len, sequences)), end_s - start_s)

    def _next_batch(self) -> list[_Job]:
        """Waits for jobs and takes as many as fit; empty when closed and done."""
        while True:
            with self._changed:
                while not self._buckets and not self._is_closed:
                    self._changed.wait()
                batch = self._take_batch()
            if not batch:
                return []
            if wanted := [job for job in batch if self._is_wanted(job)]:
                return wanted

    def _take_batch(self) -> list[_Job]:
        """As many jobs as fit, from the bucket whose turn it is and then from the others."""
        order = sorted(self._buckets)
        # max() keeps to the first, the shortest, among equals.
        most_passed_over = max(
            order, key=lambda length: self._buckets[length].times_passed_over, default=None
        )
        if (
            most_passed_over is not None
            and self._buckets[most_passed_over].times_passed_over >= _MAX_PASSED_OVER
        ):
            order.remove(most_passed_over)
            order.insert(0, most_passed_over)
        batch: list[_Job] = []
        num_tokens = 0
        for length in order:
            bucket = self._buckets[length]
            num_before = len(batch)
            while bucket.jobs and (
                not batch or num_tokens + bucket.jobs[0].num_tokens <= self._max_batch_tokens
            ):
                job = bucket.jobs.popleft()
                num_tokens += job.num_tokens
                batch.append(job)
            bucket.times_passed_over += 1
            if len(batch) > num_before:
                bucket.times_passed_over = 0
            if not bucket.jobs:
                del self._buckets[length]
        return batch

    def _is_wanted(self, job: _Job) -> bool:
        """Takes a job up; one that was cancelled, or whose client has gone, is left out."""
        if not job.future.set_running_or_notify_cancel():
            return False
        if job.is_abandoned():
            self.counters.num_abandoned += 1
            job.future.set_exception(ClientGone("the client has gone"))
            return False
        return True


class _Closed:
    """The scorer of a batcher that is closed."""

    max_context_tokens = None

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
        raise AssertionError("the batcher is closed")


def _check(results: Logprobs, sequences: Sequence[TokenSequence]) -> None:
    """Nothing but a log-probability for each response token may become a reward."""
    assert len(results) == len(sequences), "the scorer lost results"
    for logprobs_T, sequence in zip(results, sequences, strict=True):
        assert len(logprobs_T) == len(sequence.response_ids), "the scorer lost tokens"
        if not np.isfinite(logprobs_T).all():
            raise FloatingPointError("the model gave a log-probability that is not finite")
