"""Grades responses in worker processes; kills and replaces a process that hangs or dies.

In training, many responses make a grader loop forever, run out of memory or crash. So this process
keeps the time, and it is CPU time: a verdict does not depend on how busy the machine is.

A response first gets a slice of CPU time in an ordinary process. What needs more is done again from
its beginning in the slow lane, which has processes of its own: however many texts hang, every other
text still finds a process. In the slow lane, texts that have used less come first.

The pool also tells whether the response, its label or the machine is at fault: if a process dies,
others repeat its work before the response is blamed.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sar.grading.explain import Explanation
from sar.grading.label import Label
from sar.grading.processes.forkserver import ForkServer
from sar.grading.processes.marks import ExpiringMarks
from sar.grading.processes.process import (
    Budget,
    CallGaveWay,
    CallTimedOut,
    ProcessDied,
    ProcessStalled,
)
from sar.grading.processes.slot import PoolClosed, Slot
from sar.grading.verdict import Reason, Verdict

# CPU seconds that a response gets before the last try, which has the whole timeout.
_SLICES_S = (0.3, 1.0)
# CPU seconds in an ordinary process after which a response goes to the slow lane if others wait.
# One in a hundred ordinary texts takes this long.
_GIVES_WAY_AFTER_S = 0.02
_SLOW_NICENESS = 5
_MARK_LIFETIME_S = 600.0
_MAX_MARKS = 10_000

# All pools of this process share one.
_FORK_SERVER = ForkServer("sar.grading.processes.worker")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    response: str
    label: Label
    future: Future[Verdict] = field(default_factory=Future)
    num_slices: int = 0
    """Slices of CPU time that it has used up without a verdict."""
    work_s: float = 0.0
    """Seconds that processes have spent on it."""

    @property
    def key(self) -> tuple[str, Label]:
        return self.response, self.label


class _NeedsMoreTime(Exception):
    """A job has no verdict yet, and goes to the slow lane.

    `num_slices` decides how much time it gets there, and its place in the queue.
    """

    def __init__(self, num_slices: int) -> None:
        super().__init__()
        self.num_slices = num_slices


class GraderPool:
    """Grades responses in processes that it can kill. Thread-safe."""

    def __init__(
        self,
        num_workers: int,
        timeout_s: float,
        on_graded: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """
        Args:
            num_workers: number of ordinary grader processes. The slow lane has half as many more,
                at least one; they start when they are needed.
            timeout_s: seconds of CPU time that grading one response may take.
            on_graded: called after each verdict with the seconds that processes spent on it, from
                several threads.
        """
        self._slices_s = [s for s in _SLICES_S if s < timeout_s] + [timeout_s]
        self._on_graded = on_graded
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Ordered by the slices used, then by arrival; the job itself is never compared.
        self._slow_jobs: queue.PriorityQueue[tuple[float, int, _Job | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._marked_slow: ExpiringMarks[int] = ExpiringMarks(_MARK_LIFETIME_S, _MAX_MARKS)
        self._hostile_labels: ExpiringMarks[bool] = ExpiringMarks(_MARK_LIFETIME_S, _MAX_MARKS)
        self._lock = threading.Lock()
        self._is_closed = False
        self._has_logged_protections = False
        ordinary = [Slot(_FORK_SERVER, on_ready=self._log_protections) for _ in range(num_workers)]
        slow = [Slot(_FORK_SERVER, _SLOW_NICENESS) for _ in range(max(1, num_workers // 2))]
        self._slots = ordinary + slow
        self._threads = [
            *(threading.Thread(target=self._run_ordinary, args=(slot,)) for slot in ordinary),
            *(threading.Thread(target=self._run_slow, args=(slot,)) for slot in slow),
        ]
        for thread in self._threads:
            thread.name, thread.daemon = "grader", True
            thread.start()

    @property
    def num_restarts(self) -> int:
        """Processes that timed out or died, and were replaced."""
        return sum(slot.num_restarts for slot in self._slots)

    def submit(self, response: str, label: Label) -> Future[Verdict]:
        """Queues a response; the arguments are those of `sar.grading.grade.grade`.

        The future raises an exception if the grader itself fails; the verdict is not "wrong" then.
        Until there is a verdict, the future can be cancelled.

        Raises:
            RuntimeError: the pool is closed.
        """
        job = _Job(response, label)
        num_slices = self._marked_slow.get(job.key) or 0
        if num_slices == len(self._slices_s):
            job.future.set_result(Verdict(Reason.TIMEOUT))
            return job.future
        with self._lock:
            if self._is_closed:
                raise PoolClosed
            if num_slices:
                self._put_slow(replace(job, num_slices=num_slices))
            else:
                self._jobs.put(job)
        return job.future

    def grade(self, response: str, label: Label) -> Verdict:
        """Queues a response and waits for its verdict."""
        return self.submit(response, label).result()

    def explain(self, response: str, label: Label, verdict: Verdict) -> Explanation:
        """Explains a verdict, in a process of its own that is gone when this returns.

        Raises:
            CallTimedOut, ProcessDied, ProcessStalled: describing how a text was read took too long,
                or stopped the process.
        """
        slot = Slot(_FORK_SERVER)
        try:
            budget = Budget(self._slices_s[-1])
            return Explanation.from_fields(
                slot.call("explain", response, label, verdict, budget=budget)
            )
        finally:
            slot.retire_process()

    def close(self) -> None:
        """Kills the processes, even busy ones. Futures that are not done raise an exception."""
        with self._lock:
            self._is_closed = True
            for slot in self._slots:
                slot.kill()
                self._jobs.put(None)
                self._slow_jobs.put((float("inf"), next(self._numbers), None))
        for thread in self._threads:
            thread.join()
        for slot in self._slots:
            slot.retire_process()

    def _run_ordinary(self, slot: Slot) -> None:
        """Runs in a thread for each ordinary process."""
        while True:
            # Before there is a job, so that none waits for a process. If this start fails, the next
            # job starts a process again, and reports the error.
            with suppress(RuntimeError):
                slot.start()
            if (job := self._jobs.get()) is None:
                return
            self._work(slot, job, is_ordinary=True)

    def _run_slow(self, slot: Slot) -> None:
        """Runs in a thread for each process of the slow lane."""
        while job := self._slow_jobs.get()[2]:
            self._work(slot, job, is_ordinary=False)
            if self._slow_jobs.empty():
                slot.retire_process()

    def _work(self, slot: Slot, job: _Job, is_ordinary: bool) -> None:
        """Gives a job one slice of CPU time, and completes its future or queues it again."""
        if job.future.cancelled():
            return
        start_s = time.monotonic()
        try:
            verdict = self._grade(slot, job, self._make_budget(job, is_ordinary))
        except _NeedsMoreTime as needs:
            work_s = job.work_s + time.monotonic() - start_s
            with self._lock:
                if not self._is_closed:
                    self._put_slow(replace(job, num_slices=needs.num_slices, work_s=work_s))
                    return
            _complete(job, PoolClosed())
        except Exception as error:  # noqa: BLE001  the future passes any error to the caller
            _complete(job, error)
        else:
            self._on_graded(job.work_s + time.monotonic() - start_s)
            _complete(job, verdict)

    def _put_slow(self, job: _Job) -> None:
        self._slow_jobs.put((job.num_slices, next(self._numbers), job))

    def _make_budget(self, job: _Job, is_ordinary: bool) -> Budget:
        cpu_s = self._slices_s[job.num_slices]
        if not is_ordinary:
            return Budget(cpu_s)
        return Budget(cpu_s, min(cpu_s, _GIVES_WAY_AFTER_S), lambda: not self._jobs.empty())

    def _grade(self, slot: Slot, job: _Job, budget: Budget) -> Verdict:
        """Grades a response; compares its label as text if the label alone stops a grader.

        Raises:
            _NeedsMoreTime: the budget was too small, and is not the last one.
        """
        read_label = not self._hostile_labels.get(job.label)
        num_slices, is_last = job.num_slices, job.num_slices == len(self._slices_s) - 1
        try:
            verdict = _grade_once(slot, job, read_label, budget)
        except CallGaveWay:
            raise _NeedsMoreTime(num_slices) from None
        if verdict.reason is Reason.TIMEOUT and not is_last:
            self._marked_slow.set(job.key, num_slices + 1)
            raise _NeedsMoreTime(num_slices + 1)
        was_stopped = verdict.reason in (Reason.TIMEOUT, Reason.CRASHED)
        if was_stopped and read_label and job.label.grader == "math":
            if not is_last:  # the label gets the whole time too
                raise _NeedsMoreTime(len(self._slices_s) - 1)
            if self._is_hostile_label(slot, job.label, budget):
                verdict = _grade_once(slot, job, False, budget)
                return replace(verdict, label_unreadable=True)
        if verdict.reason is Reason.TIMEOUT:
            self._marked_slow.set(job.key, num_slices + 1)
        return verdict

    def _is_hostile_label(self, slot: Slot, label: Label, budget: Budget) -> bool:
        """Whether parsing the label alone stops a grader; then the response is not at fault.

        Only a label that uses up the whole time is marked. A process may die for other reasons.
        """
        if self._hostile_labels.get(label):  # another thread has found out meanwhile
            return True
        try:
            if slot.call("check_label", label, budget=budget):
                return False
        except CallTimedOut:
            self._hostile_labels.set(label, True)
        except ProcessStalled:
            raise
        except ProcessDied:
            pass  # like a label for which `check_label` is False
        _log.warning("cannot parse a label, comparing it as plain text: %.80r", label.answer)
        return True

    def _log_protections(self, protections: str) -> None:
        """Says once what holds in the grader processes."""
        with self._lock:
            is_first, self._has_logged_protections = not self._has_logged_protections, True
        if is_first:
            _log.info("grader processes: %s", protections)


def _grade_once(slot: Slot, job: _Job, read_label: bool, budget: Budget) -> Verdict:
    """Grades a response in the slot's process.

    Raises:
        CallGaveWay: others wait for the process.
        Exception: there is no verdict, and the response is not at fault.
    """
    try:
        args = (job.response, job.label, read_label)
        return Verdict.from_fields(slot.call("grade_response", *args, budget=budget))
    except CallTimedOut:
        return Verdict(Reason.TIMEOUT)
    except ProcessStalled:
        raise  # the machine is at fault
    except ProcessDied:
        return Verdict(Reason.CRASHED)


def _complete(job: _Job, outcome: Verdict | Exception) -> None:
    """Gives the future its outcome, unless it was cancelled."""
    if not job.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)
