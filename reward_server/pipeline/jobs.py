"""The jobs that wait for a scorer, and which of them go together.

Jobs wait in buckets of similar length. Short buckets go first, so that one long rollout does not
delay a hundred short ones. A bucket that was passed over a few times goes next. Before all buckets
go jobs whose scorer was lost or failed: each of them alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sar.scoring import TokenSequence

# A bucket goes first after this many batches in a row that took nothing from it.
_MAX_PASSED_OVER = 3
# What waits is not divided into smaller batches. A batch takes about a millisecond of
# processor time, and some milliseconds of a GPU, however few its tokens are.
_MIN_SHARE_TOKENS = 1024

Logprobs = list[npt.NDArray[np.float32]]
"""What `LogprobScorer.response_logprobs` returns: self-certainties too, where a sequence asks."""


class JobFuture(Future[Logprobs]):
    """A job's log-probabilities. `cancel` also keeps a job that has been given to a scorer from
    being given to another."""

    is_unwanted = False

    def cancel(self) -> bool:
        self.is_unwanted = True
        return super().cancel()


@dataclass(eq=False)
class Job:
    """Sequences that are scored together, and who waits for them."""

    sequences: Sequence[TokenSequence]
    is_abandoned: Callable[[], bool]
    future: JobFuture = field(default_factory=JobFuture)
    queued_at_s: float = field(default_factory=time.monotonic)
    num_losses: int = 0
    """Scorers that ended while they scored this job and no other."""
    not_before_s: float = 0.0
    """`time.monotonic()` before which it is not tried again. When a machine ends, it takes a moment
    until all its scorers are known to be lost: they must not lose the same job one by one."""
    failed_on: object = None
    """The worker whose scorer failed on this job; another one tries it."""

    @cached_property
    def num_tokens(self) -> int:
        return sum(map(len, self.sequences))

    @cached_property
    def bucket(self) -> int:
        """Lengths from one power of two to the next share a bucket."""
        return max(map(len, self.sequences)).bit_length()


@dataclass
class _Bucket:
    jobs: deque[Job] = field(default_factory=deque)
    times_passed_over: int = 0


class JobQueue:
    """The jobs that wait. Not safe to use from several threads at once."""

    def __init__(self, max_batch_tokens: int) -> None:
        """
        Args:
            max_batch_tokens: tokens of jobs that are taken together; a larger job goes alone.
        """
        self._max_batch_tokens = max_batch_tokens
        self._buckets: dict[int, _Bucket] = {}
        self._num_bucket_tokens = 0
        self._alone: deque[Job] = deque()
        self._looked_at_s = 0.0
        self.behind: deque[Job] = deque()
        """Jobs that are taken one at a time, and only while no other waits."""

    def __iter__(self) -> Iterator[Job]:
        """All jobs but those behind."""
        yield from self._alone
        for bucket in self._buckets.values():
            yield from bucket.jobs

    def put(self, job: Job) -> None:
        self._num_bucket_tokens += job.num_tokens
        self._buckets.setdefault(job.bucket, _Bucket()).jobs.append(job)

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Puts jobs before all others. Each is scored alone."""
        self._alone.extendleft(reversed(jobs))

    @property
    def has_batch(self) -> bool:
        """Whether any job waits, those behind aside."""
        return bool(self._buckets or self._alone)

    def has_batch_for(self, worker: object, *, is_only: bool) -> bool:
        return bool(self._buckets) or self._find_alone(worker, is_only) is not None

    @property
    def pause_s(self) -> float | None:
        """Seconds until a job may be tried that could not be when `has_batch_for` looked; 0 if its
        time has come since then. None: there is no such job."""
        times_s = [job.not_before_s for job in self._alone if job.not_before_s > self._looked_at_s]
        return max(0.0, min(times_s) - time.monotonic()) if times_s else None

    def take(self, worker: object, *, is_only: bool, num_sharing: float = 1.0) -> list[Job]:
        """The next batch of a worker.

        Args:
            is_only: whether there is no other worker.
            num_sharing: among how many workers the jobs that wait are divided, unless they are few.
        """
        if (index := self._find_alone(worker, is_only)) is not None:
            job = self._alone[index]
            del self._alone[index]
            return [job]
        share = max(_MIN_SHARE_TOKENS, self._num_bucket_tokens / num_sharing)
        return self._take_batch(min(self._max_batch_tokens, share))

    def take_all(self) -> list[Job]:
        """Empties the queue."""
        jobs = [*self, *self.behind]
        self._buckets.clear()
        self._alone.clear()
        self.behind.clear()
        self._num_bucket_tokens = 0
        return jobs

    def _find_alone(self, worker: object, is_only: bool) -> int | None:
        self._looked_at_s = time.monotonic() if self._alone else 0.0
        for index, job in enumerate(self._alone):
            if job.not_before_s <= self._looked_at_s and (is_only or job.failed_on is not worker):
                return index
        return None

    def _take_batch(self, max_tokens: float) -> list[Job]:
        """As many jobs as fit: first those of the most overdue bucket, then short before long."""
        passed_over = {n: bucket.times_passed_over for n, bucket in sorted(self._buckets.items())}
        overdue = [length for length, times in passed_over.items() if times >= _MAX_PASSED_OVER]
        # Among equals, max() returns the first, which is the shortest.
        first = max(overdue, key=passed_over.__getitem__, default=None)
        batch: list[Job] = []
        num_tokens = 0
        for length in sorted(passed_over, key=lambda length: (length != first, length)):
            bucket = self._buckets[length]
            num_before = len(batch)
            while bucket.jobs and (
                not batch or num_tokens + bucket.jobs[0].num_tokens <= max_tokens
            ):
                job = bucket.jobs.popleft()
                num_tokens += job.num_tokens
                batch.append(job)
            bucket.times_passed_over = 0 if len(batch) > num_before else passed_over[length] + 1
            if not bucket.jobs:
                del self._buckets[length]
        self._num_bucket_tokens -= num_tokens
        return batch
