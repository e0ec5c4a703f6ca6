"""One queue over all requests, so that rollouts that arrive one by one are scored together.

There is no timer: an idle scorer starts at once with the jobs that are there, and jobs that arrive
while it works form the next batch. `jobs` says which jobs go together.

Several scorers take from the same queue, each in a thread of its own, so that a fast one gets more
than a slow one. What waits is divided among them: a scorer takes all of it only if it has no idle
neighbour. Scorers may come and go while jobs wait. The jobs of a scorer that is lost go back to the
front of the queue.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from reward_server.errors import ClientGone, NotReady, ScoringFailed
from reward_server.observe.metrics import Metrics
from reward_server.pipeline.batch_counters import BatcherCounters
from reward_server.pipeline.jobs import Job, JobQueue, Logprobs
from reward_server.pipeline.logprob_check import check_logprobs
from reward_server.pipeline.workers import BatcherClosed, QueueState, ScorerLost, Worker
from sar.errors import one_line
from sar.scoring import LogprobScorer, TokenSequence

# Consecutive scorer failures after which the server reports itself as failing.
_MAX_FAILURES = 5
# Seconds after the last failure until the server reports itself as ready again. A trainer sends
# nothing to a server that is not ready, so no success would ever clear the failure.
_FAILING_S = 30.0
# A job is an error once it was scored alone by this many scorers, and all of them were lost.
_MAX_LOSSES = 5
# The same for a job that goes behind all others.
_MAX_LOSSES_BEHIND = 2
# After a scorer was lost, its job is tried again after so many seconds, then twice as many, ...
_RETRY_S = 1.0
# A scorer is faulty after this many jobs in a row on which it failed, and another one did not.
_MAX_FAULTS = 3

_log = logging.getLogger(__name__)


class Batcher:
    """Feeds scorers, each from a thread of its own. Safe to use from many threads."""

    def __init__(
        self,
        scorer: LogprobScorer | None,
        max_batch_tokens: int,
        metrics: Metrics | None = None,
        counters: BatcherCounters | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            scorer: used from one thread only. None: `add_scorer` gives scorers.
            max_batch_tokens: tokens handed to a scorer at once; a larger job goes alone.
            counters: counters of an earlier batcher, to continue.
            on_close: called once the batcher is closed and its scorers do not work any more.
        """
        self._metrics = metrics or Metrics()
        self._num_failures_in_a_row = 0
        self._failed_at_s = 0.0
        self._queue = JobQueue(max_batch_tokens)
        self._workers: list[Worker] = []
        self._idle: set[Worker] = set()
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_ended = False
        """Closed, and no scorer works any more."""
        self._on_close = on_close
        self.counters = counters or BatcherCounters()
        if scorer:
            self.add_scorer(scorer)

    def add_scorer(
        self,
        scorer: LogprobScorer,
        counters: BatcherCounters | None = None,
        on_faulty: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> Worker | None:
        """Lets one more scorer take jobs. Returns None if the batcher is closed.

        Args:
            scorer: used from one thread only. Raises `ScorerLost` once it has ended: it is then
                not used again.
            counters: the scorer's own, besides those of the batcher.
            on_faulty: called if the scorer fails on jobs on which others do not.
            on_end: called once the scorer is not used any more.
        Raises:
            RuntimeError: no thread is left for it.
        """
        worker = Worker(scorer, counters, on_faulty, on_end)
        worker.thread = threading.Thread(
            target=self._run, args=(worker,), name="scoring", daemon=True
        )
        with self._changed:
            if self._is_closed:
                return None
            worker.thread.start()  # first, as it may fail; the thread waits for the lock
            self._workers.append(worker)
        return worker

    def remove_scorer(self, worker: Worker) -> None:
        """Gives a scorer no more jobs. Does not wait until it has done those that it has."""
        with self._changed:
            worker.is_stopping = True
            self._changed.notify_all()

    @property
    def num_scorers(self) -> int:
        """How many scorers take jobs."""
        return len(self._workers)

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
        job = Job(sequences, is_abandoned)
        if not sequences:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._is_closed:
                raise NotReady("the server is stopping")
            self._queue.put(job)
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
        job = Job(sequences, is_abandoned)
        if not sequences:
            job.future.set_result([])
            return job.future
        with self._changed:
            if self._is_closed:
                job.future.set_exception(BatcherClosed())
                return job.future
            self._queue.behind.append(job)
            self._changed.notify()
        return job.future

    @property
    def is_failing(self) -> bool:
        """Whether the latest calls of the scorers have all failed, not long ago."""
        return (
            self._num_failures_in_a_row >= _MAX_FAILURES
            and time.monotonic() - self._failed_at_s < _FAILING_S
        )

    @property
    def queue(self) -> QueueState:
        with self._changed:
            jobs = list(self._queue)
        oldest = min((job.queued_at_s for job in jobs), default=None)
        return QueueState(
            len(jobs),
            sum(job.num_tokens for job in jobs),
            0.0 if oldest is None else time.monotonic() - oldest,
        )

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuses new jobs, finishes those of `submit`, and drops the references to the scorers.
        Without a scorer, the jobs that wait raise `NotReady`.

        Returns:
            False if that took longer than `timeout_s`.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            threads = [worker.thread for worker in self._workers]
        ends_at_s = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in threads:
            thread.join(None if ends_at_s is None else max(0.0, ends_at_s - time.monotonic()))
            if thread.is_alive():
                return False
        with self._changed:
            was_ended, self._is_ended = self._is_ended, True
            behind, jobs = list(self._queue.behind), self._queue.take_all()
        for job in jobs:
            error = BatcherClosed() if job in behind else NotReady("the server is stopping")
            if job.future.running() or job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
        if not was_ended:
            self._on_close()
        return True

    def _run(self, worker: Worker) -> None:
        try:
            while jobs := self._wait_for_jobs(worker):
                if isinstance(jobs, Job):
                    self._score_behind(worker, jobs)
                elif wanted := [job for job in jobs if self._is_wanted(job)]:
                    self._score(worker, wanted)
        except ScorerLost as error:
            _log.debug("a scorer is lost: %s", error)
        finally:
            worker.scorer = None
            with self._changed:
                self._workers.remove(worker)
                self._changed.notify_all()  # the others may now take what this one failed on
            worker.on_end()

    def _wait_for_jobs(self, worker: Worker) -> list[Job] | Job | None:
        """Waits for jobs and takes as many as fit, or one that goes behind all others; None once
        the worker is to stop, or the batcher is closed and done."""
        with self._changed:
            while not worker.is_stopping:
                is_only = len(self._workers) == 1
                if self._queue.has_batch_for(worker, is_only=is_only):
                    return self._take(worker, is_only=is_only)
                if self._is_closed:
                    return None
                if self._queue.behind and not self._queue.has_batch:
                    return self._queue.behind.popleft()
                self._idle.add(worker)
                self._changed.wait(self._queue.pause_s)
                self._idle.discard(worker)
            self._changed.notify()  # in the place of this worker
            return None

    def _take(self, worker: Worker, *, is_only: bool) -> list[Job]:
        """The next batch. Idle workers each get a share, and those that work half of one: they come
        back soon."""
        num_idle = len(self._idle)
        num_working = len(self._workers) - num_idle - 1
        num_sharing = 1 + num_idle + num_working / 2
        batch = self._queue.take(worker, is_only=is_only, num_sharing=num_sharing)
        if self._queue.has_batch:
            self._changed.notify()
        return batch

    def _score(self, worker: Worker, jobs: Sequence[Job], *, is_retry: bool = False) -> None:
        """Scores jobs together. If that fails, `_recover` scores each of them alone.

        Raises:
            ScorerLost: the jobs are back in the queue.
        """
        assert worker.scorer is not None
        sequences = [s for job in jobs for s in job.sequences]
        failure = None
        start_s = time.monotonic()
        try:
            results = worker.scorer.response_logprobs(sequences)
            check_logprobs(results, sequences)
        except ScorerLost:
            self._put_back(jobs)
            raise
        # Also what is no Exception, such as a panic in Rust: the thread must go on.
        except BaseException as error:  # noqa: BLE001  the jobs' futures get any error
            failure = error
        end_s = time.monotonic()
        self.counters.add_batch(sequences, start_s, end_s)
        if worker.counters:
            worker.counters.add_batch(sequences, start_s, end_s)
        self._metrics.add_batch(len(sequences), sum(map(len, sequences)), end_s - start_s)
        if failure:
            self._recover(worker, jobs, failure, is_retry=is_retry)
            return
        self._num_failures_in_a_row = 0
        worker.num_faults = 0
        remaining = iter(results)
        for job in jobs:
            job.future.set_result([next(remaining) for _ in job.sequences])
            if isinstance(job.failed_on, Worker) and job.failed_on is not worker:
                self._blame(job.failed_on)

    def _recover(
        self, worker: Worker, jobs: Sequence[Job], failure: BaseException, *, is_retry: bool
    ) -> None:
        """Scores each job alone after a failure, and a job that fails alone once more: if there is
        another scorer, there.

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
            for index, job in enumerate(jobs):
                try:
                    self._score(worker, [job])
                except ScorerLost:
                    with self._changed:
                        self._queue.put_back(jobs[index + 1 :])
                    raise
        elif is_retry or jobs[0].failed_on:
            jobs[0].future.set_exception(ScoringFailed(f"the scorer failed: {reason}"))
        elif self._pass_on(worker, jobs[0]):
            pass
        else:
            self._score(worker, jobs, is_retry=True)

    def _pass_on(self, worker: Worker, job: Job) -> bool:
        """Gives a job that failed to another worker. False if there is none."""
        with self._changed:
            if len(self._workers) == 1:
                return False
            job.failed_on = worker
            self._queue.put_back([job])
            self._changed.notify_all()
        return True

    def _blame(self, worker: Worker) -> None:
        """Notes that a worker's scorer failed on a job on which another did not."""
        worker.num_faults += 1
        if worker.num_faults == _MAX_FAULTS:
            worker.on_faulty()

    def _put_back(self, jobs: Sequence[Job]) -> None:
        """Puts the jobs of a lost scorer back. One that was alone may be why it was lost."""
        is_alone = len(jobs) == 1
        if is_alone:
            jobs[0].num_losses += 1
            if jobs[0].num_losses == _MAX_LOSSES:
                text = f"{_MAX_LOSSES} scorers ended while they scored this rollout alone"
                _log.error("%s: it gets an error", text)
                jobs[0].future.set_exception(ScoringFailed(text))
                return
            jobs[0].not_before_s = time.monotonic() + _RETRY_S * jobs[0].num_losses
        with self._changed:
            self._queue.put_back(jobs)
            self._changed.notify_all()

    def _score_behind(self, worker: Worker, job: Job) -> None:
        assert worker.scorer is not None
        if not self._is_wanted(job):
            return
        start_s = time.monotonic()
        try:
            results = worker.scorer.response_logprobs(job.sequences)
            check_logprobs(results, job.sequences)
        except ScorerLost as error:
            job.num_losses += 1
            if job.num_losses == _MAX_LOSSES_BEHIND:
                job.future.set_exception(ScoringFailed(f"the scorer ended: {one_line(error)}"))
                raise
            with self._changed:
                self._queue.behind.appendleft(job)
                self._changed.notify()
            raise
        except BaseException as error:  # noqa: BLE001  see `_score`
            reason = one_line(error)
            _log.error("scoring a rollout for /explain failed: %s", reason)
            traceback.clear_frames(error.__traceback__)
            job.future.set_exception(ScoringFailed(f"the scorer failed: {reason}"))
            return
        self._metrics.add_stage("explain", time.monotonic() - start_s)
        job.future.set_result(results)

    def _is_wanted(self, job: Job) -> bool:
        """Marks a job as running; False if it was cancelled or its client has gone."""
        # One that comes back from another scorer is marked already.
        if not (job.future.running() or job.future.set_running_or_notify_cancel()):
            return False
        if job.future.is_unwanted or job.is_abandoned():
            self.counters.add_abandoned()
            job.future.set_exception(ClientGone("the client has gone"))
            return False
        return True
