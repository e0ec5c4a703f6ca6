"""One queue over all requests, so that rollouts that arrive one by one are scored together.

There is no timer: an idle scorer starts at once with the jobs that are there, and jobs that arrive
while it works form the next batch. Jobs wait in buckets of similar length. Short buckets go first,
so that one long rollout does not delay a hundred short ones. A bucket that was passed over a few
times goes next.

Jobs of `submit_behind` are scored one at a time, and only while no other job waits.
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
from sar.errors import one_line
from sar.scoring import LogprobScorer, TokenSequence

# A bucket goes first after this many batches in a row that took nothing from it.
_MAX_PASSED_OVER = 3
# A pause longer than this ends a stretch of work.
_PAUSE_S = 1.0
# Consecutive scorer failures after which the server reports itself as failing.
_MAX_FAILURES = 5
# Seconds after the last failure until the server reports itself as ready again. A trainer sends
# nothing to a server that is not ready, so no success would ever clear the failure.
_FAILING_S = 30.0

_log = logging.getLogger(__name__)

Logprobs = list[npt.NDArray[np.float32]]
"""What `LogprobScorer.response_logprobs` returns: self-certainties too, where a sequence asks."""


class BatcherClosed(Exception):
    """The batcher was closed before it scored a job of `submit_behind`."""


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
    """What the scorer has done since the start."""

    num_batches: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    num_abandoned: int = 0
    """Jobs skipped because their client had gone."""
    busy_s: float = 0.0
    """Seconds in the scorer."""
    stretch_started_s: float = 0.0
    stretch_ended_s: float = 0.0
    stretch_busy_s: float = 0.0
    """Start and end of the latest stretch of work (`time.monotonic`), and its seconds in the
    scorer. Pauses of up to a second belong to a stretch."""

    @property
    def busy_share(self) -> float:
        """Share of the latest stretch of work spent in the scorer; 0 before the first batch."""
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
    """What waits for the scorer."""

    num_rollouts: int
    num_tokens: int
    oldest_s: float
    """Seconds that the oldest job has waited; 0 if none waits."""


class Batcher:
    """Feeds one scorer from a thread of its own. Safe to use from many threads."""

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
            counters: counters of an earlier batcher, to continue.
        """
        self._metrics = metrics or Metrics()
        self._num_failures_in_a_row = 0
        self._failed_at_s = 0.0
        self._scorer: LogprobScorer | None = scorer
        self._max_batch_tokens = max_batch_tokens
        self._buckets: dict[int, _Bucket] = {}
        self._behind: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self.counters = counters or BatcherCounters()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    def submit(
        self, sequences: Sequence[TokenSequence], is_abandoned: Callable[[], bool] = lambda: False
    ) -> Future[Logprobs]:
        """Queues sequences to be scored together; the future gives their log-probabilities.

        Args:
            is_abandoned: called just before scoring. If it returns True, the job is skipped and
                its future raises `ClientGone`.
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

    def submit_behind(
        self, sequences: Sequence[TokenSequence], is_abandoned: Callable[[], bool] = lambda: False
    ) -> Future[Logprobs]:
        """Queues sequences behind all others, also those that come later.

        They are in no counter, and their failures do not make the server report itself as failing.
        `close` does not wait for them: their future then raises `BatcherClosed`.

        Args:
            is_abandoned: as for `submit`.
        """
        job = _Job(sequences, is_abandoned)
        if not sequences:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._is_closed:
                job.future.set_exception(BatcherClosed())
                return job.future
            self._behind.append(job)
            self._changed.notify()
        return job.future

    @property
    def is_failing(self) -> bool:
        """Whether the latest calls of the scorer have all failed, not long ago."""
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
        """Refuses new jobs, finishes those of `submit`, and drops the reference to the scorer.

        Returns:
            False if that took longer than `timeout_s`.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._scorer = None
        return True

    def _run(self) -> None:
        while jobs := self._wait_for_jobs():
            if isinstance(jobs, _Job):
                self._score_behind(jobs)
            elif wanted := [job for job in jobs if self._is_wanted(job)]:
                self._score(wanted)
        for job in self._behind:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(BatcherClosed())
        self._behind.clear()

    def _score(self, jobs: Sequence[_Job], *, is_retry: bool = False) -> None:
        """Scores jobs together. If that fails, `_recover` scores each of them alone."""
        if self._scorer is None:
            raise RuntimeError("the batcher is closed")
        sequences = [s for job in jobs for s in job.sequences]
        failure = None
        start_s = time.monotonic()
        try:
            results = self._scorer.response_logprobs(sequences)
            _check_logprobs(results, sequences)
        except Exception as error:  # noqa: BLE001  the jobs' futures get any error
            failure = error
        end_s = time.monotonic()
        self.counters.add_batch(sequences, start_s, end_s)
        self._metrics.add_batch(len(sequences), sum(map(len, sequences)), end_s - start_s)
        if failure:
            self._recover(jobs, failure, is_retry=is_retry)
            return
        self._num_failures_in_a_row = 0
        remaining = iter(results)
        for job in jobs:
            job.future.set_result([next(remaining) for _ in job.sequences])

    def _recover(self, jobs: Sequence[_Job], failure: Exception, *, is_retry: bool) -> None:
        """Scores each job alone after a failure, and a job that fails alone once more.

        So one job that is too large for the scorer does not fail the others.
        """
        self._num_failures_in_a_row += 1
        self._failed_at_s = time.monotonic()
        trace = failure if self._num_failures_in_a_row == 1 else None
        reason = one_line(failure)
        _log.error("scoring %d rollouts failed: %s", len(jobs), reason, exc_info=trace)
        # Its frames hold the tensors of the failed call, which may be what memory ran out for.
        traceback.clear_frames(failure.__traceback__)
        if len(jobs) > 1:
            for job in jobs:
                self._score([job])
        elif not is_retry:
            self._score(jobs, is_retry=True)
        else:
            jobs[0].future.set_exception(ScoringFailed(f"the scorer failed: {reason}"))

    def _score_behind(self, job: _Job) -> None:
        if self._scorer is None:
            raise RuntimeError("the batcher is closed")
        if not self._is_wanted(job):
            return
        start_s = time.monotonic()
        try:
            results = self._scorer.response_logprobs(job.sequences)
            _check_logprobs(results, job.sequences)
        except Exception as error:  # noqa: BLE001  the job's future gets any error
            reason = one_line(error)
            _log.error("scoring a rollout for /explain failed: %s", reason)
            traceback.clear_frames(error.__traceback__)
            job.future.set_exception(ScoringFailed(f"the scorer failed: {reason}"))
            return
        self._metrics.add_stage("explain", time.monotonic() - start_s)
        job.future.set_result(results)

    def _wait_for_jobs(self) -> list[_Job] | _Job | None:
        """Waits for jobs and takes as many as fit, or one that goes behind all others; None once
        closed and done."""
        with self._changed:
            while not (self._buckets or self._behind or self._is_closed):
                self._changed.wait()
            if self._buckets:
                return self._take_batch()
            return None if self._is_closed else self._behind.popleft()

    def _take_batch(self) -> list[_Job]:
        """As many jobs as fit: first those of the most overdue bucket, then short before long."""
        passed_over = {n: bucket.times_passed_over for n, bucket in sorted(self._buckets.items())}
        overdue = [length for length, times in passed_over.items() if times >= _MAX_PASSED_OVER]
        # Among equals, max() returns the first, which is the shortest.
        first = max(overdue, key=passed_over.__getitem__, default=None)
        batch: list[_Job] = []
        num_tokens = 0
        for length in sorted(passed_over, key=lambda length: (length != first, length)):
            bucket = self._buckets[length]
            num_before = len(batch)
            while bucket.jobs and (
                not batch or num_tokens + bucket.jobs[0].num_tokens <= self._max_batch_tokens
            ):
                job = bucket.jobs.popleft()
                num_tokens += job.num_tokens
                batch.append(job)
            bucket.times_passed_over = 0 if len(batch) > num_before else passed_over[length] + 1
            if not bucket.jobs:
                del self._buckets[length]
        return batch

    def _is_wanted(self, job: _Job) -> bool:
        """Marks a job as running; False if it was cancelled or its client has gone."""
        if not job.future.set_running_or_notify_cancel():
            return False
        if job.is_abandoned():
            self.counters.num_abandoned += 1
            job.future.set_exception(ClientGone("the client has gone"))
            return False
        return True


def _check_logprobs(results: Logprobs, sequences: Sequence[TokenSequence]) -> None:
    """A reward may only come from one finite log-probability for each response token, and from as
    many self-certainties if the sequence asks for them."""
    if len(results) != len(sequences):
        raise RuntimeError(f"the scorer gave {len(results)} results for {len(sequences)} sequences")
    for scores, sequence in zip(results, sequences, strict=True):
        if sequence.wants_certainty:
            _check_certainties(scores, sequence)
            continue
        if len(scores) != len(sequence.response_ids):
            raise RuntimeError(
                f"the scorer gave {len(scores)} log-probabilities for "
                f"{len(sequence.response_ids)} tokens"
            )
        if not np.isfinite(scores).all():
            raise FloatingPointError("the model gave a log-probability that is not finite")


def _check_certainties(scores: npt.NDArray[np.float32], sequence: TokenSequence) -> None:
    expected = (2, len(sequence.response_ids))
    if scores.shape != expected:
        raise RuntimeError(
            f"the scorer gave numbers of shape {scores.shape} instead of {expected}: "
            "log-probabilities and self-certainties"
        )
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            "the model gave a log-probability or a self-certainty that is not finite"
        )
