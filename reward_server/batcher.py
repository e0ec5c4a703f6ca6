"""One queue over all requests, so that rollouts which arrive one by one are scored together.

There is no timer: an idle engine starts at once with what is there, and what arrives while it works
is the next batch.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from reward_server.errors import NotReady, ScoringFailed
from sar.scoring import LogprobScorer, TokenSequence

_log = logging.getLogger(__name__)

Logprobs = list[npt.NDArray[np.float32]]


@dataclass
class _Job:
    sequences: Sequence[TokenSequence]
    future: Future[Logprobs] = field(default_factory=Future)

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.sequences))


class Batcher:
    """Feeds one scorer from many threads, first come, first served."""

    def __init__(self, scorer: LogprobScorer, max_batch_tokens: int) -> None:
        """
        Args:
            scorer: used from one thread only.
            max_batch_tokens: tokens handed to the scorer at once; a larger job goes alone.
        """
        self._scorer = scorer
        self._max_batch_tokens = max_batch_tokens
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self.num_batches = 0
        self.num_sequences = 0
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    def submit(self, sequences: Sequence[TokenSequence]) -> Future[Logprobs]:
        """Queues sequences; the future gives their log-probabilities, in order.

        Raises:
            NotReady: the batcher is closed.
        """
        job = _Job(sequences)
        if not sequences:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._is_closed:
                raise NotReady("the server is stopping")
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Takes no more jobs; those in the queue are finished first."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            # From here on they cannot be cancelled; those that were are left out.
            self._score([job for job in batch if job.future.set_running_or_notify_cancel()])

    def _score(self, jobs: Sequence[_Job]) -> None:
        """Scores some jobs together; where that fails, each alone, so that one job which is too
        much for the scorer does not take the others with it."""
        sequences = [s for job in jobs for s in job.sequences]
        self.num_batches += 1
        self.num_sequences += len(sequences)
        try:
            results = self._scorer.response_logprobs(sequences)
            assert len(results) == len(sequences), "the scorer lost results"
        except Exception as error:  # noqa: BLE001  whatever it is, these jobs must hear of it
            _log.exception("scoring %d jobs failed", len(jobs))
            if len(jobs) > 1:
                for job in jobs:
                    self._score([job])
            else:
                failed = ScoringFailed(f"the scorer failed: {type(error).__name__}: {error}")
                jobs[0].future.set_exception(failed)
            return
        remaining = iter(results)
        for job in jobs:
            job.future.set_result([next(remaining) for _ in job.sequences])

    def _next_batch(self) -> list[_Job]:
        """Waits for jobs and takes as many as fit; empty when closed and done."""
        with self._changed:
            while not self._jobs and not self._is_closed:
                self._changed.wait()
            batch: list[_Job] = []
            num_tokens = 0
            while self._jobs:
                num_tokens += self._jobs[0].num_tokens
                if batch and num_tokens > self._max_batch_tokens:
                    break
                batch.append(self._jobs.popleft())
            return batch
