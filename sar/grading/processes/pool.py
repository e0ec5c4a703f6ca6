"""Grades responses in worker processes; kills and replaces a process that hangs or dies.

In training, many responses make a grader loop forever, run out of memory or crash, and
math-verify's own timeouts only work in a main thread. So this process keeps the time; a response's
time starts when a worker takes it up. The pool also tells whether the response, its label or the
machine is at fault: if a process dies, others repeat its work before the response is blamed.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from sar.grading.explain import Explanation
from sar.grading.label import Label
from sar.grading.processes.process import CallTimedOut, KillableProcess, ProcessDied, ProcessStalled
from sar.grading.verdict import Reason, Verdict

_WORKER = "sar.grading.processes.worker"
# A process is replaced after this many verdicts, because sympy's caches grow.
_VERDICTS_PER_PROCESS = 2000
# The response is blamed when this many processes in a row die on it. Also the number of processes
# in a row that may fail to start.
_MAX_DEATHS = 3
_MAX_HOSTILE_LABELS = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    response: str
    label: Label
    future: Future[Verdict] = field(default_factory=Future)


@dataclass
class _Slot:
    """Holds one thread's current process, so that `close` can kill it."""

    process: KillableProcess | None = None


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
            num_workers: number of grader processes.
            timeout_s: seconds that grading one response may take, without its time in the queue.
            on_graded: called after each verdict with the seconds it took, from several threads.
        """
        self.num_restarts = 0
        """Processes that timed out or died, and were replaced."""
        self._timeout_s = timeout_s
        self._on_graded = on_graded
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([_WORKER])
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._hostile_labels: set[Label] = set()
        self._lock = threading.Lock()
        self._is_closed = False
        self._slots = [_Slot() for _ in range(num_workers)]
        self._threads = [
            threading.Thread(target=self._run, args=(slot,), name="grader", daemon=True)
            for slot in self._slots
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, response: str, label: Label) -> Future[Verdict]:
        """Queues a response; the arguments are those of `sar.grading.grade.grade`.

        The future raises an exception if the grader itself fails; the verdict is not "wrong" then.

        Raises:
            RuntimeError: the pool is closed.
        """
        job = _Job(response, label)
        with self._lock:
            self._raise_if_closed()
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
        slot = _Slot()
        try:
            return Explanation.from_fields(self._call(slot, "explain", response, label, verdict))
        finally:
            if slot.process:
                slot.process.kill_and_wait()

    def close(self) -> None:
        """Kills the processes, even busy ones. Futures that are not done raise an exception."""
        with self._lock:
            self._is_closed = True
            for slot in self._slots:
                self._jobs.put(None)
                if slot.process:
                    slot.process.kill()
        for thread in self._threads:
            thread.join()

    def _run(self, slot: _Slot) -> None:
        """Runs in each thread: takes jobs from the queue and has the slot's process do them."""
        # If this start fails, the first job starts a process again, and reports the error.
        with suppress(RuntimeError, OSError, EOFError):
            self._get_process(slot)
        while job := self._jobs.get():
            if not job.future.set_running_or_notify_cancel():
                continue
            start_s = time.monotonic()
            try:
                verdict = self._grade(slot, job.response, job.label)
            except Exception as error:  # noqa: BLE001  the future passes any error to the caller
                job.future.set_exception(error)
            else:
                job.future.set_result(verdict)
                self._on_graded(time.monotonic() - start_s)
        if slot.process:
            slot.process.kill_and_wait()

    def _grade(self, slot: _Slot, response: str, label: Label) -> Verdict:
        """Grades a response; compares its label as text if the label alone stops a grader."""
        read_label = label not in self._hostile_labels
        verdict = self._grade_once(slot, response, label, read_label)
        was_stopped = verdict.reason in (Reason.TIMEOUT, Reason.CRASHED)
        if was_stopped and read_label and self._is_hostile_label(slot, label):
            verdict = self._grade_once(slot, response, label, read_label=False)
            return replace(verdict, label_unreadable=True)
        return verdict

    def _grade_once(self, slot: _Slot, response: str, label: Label, read_label: bool) -> Verdict:
        try:
            args = (response, label, read_label)
            verdict: Verdict = self._call_with_retries(slot, "grade_response", *args)
            return verdict
        except CallTimedOut:
            return Verdict(Reason.TIMEOUT)
        except ProcessStalled:
            raise  # the machine is at fault, so there is no verdict
        except ProcessDied:
            return Verdict(Reason.CRASHED)

    def _is_hostile_label(self, slot: _Slot, label: Label) -> bool:
        """Whether parsing the label alone stops a grader; then the response is not at fault."""
        if label in self._hostile_labels:  # another thread has found out meanwhile
            return True
        if label.grader != "math":
            return False
        try:
            if self._call_with_retries(slot, "check_label", label):
                return False
        except ProcessStalled:
            raise
        except (CallTimedOut, ProcessDied):
            pass  # hostile, like a label for which `check_label` is False
        _log.warning("cannot parse a label, comparing it as plain text: %.80r", label.answer)
        if len(self._hostile_labels) < _MAX_HOSTILE_LABELS:
            self._hostile_labels.add(label)
        return True

    def _call_with_retries(self, slot: _Slot, function: str, *args: Any) -> Any:
        """Calls a function of the worker, and again in a new process if the process dies or stalls.

        The machine may kill a process now and then; if each one dies, the text is at fault.
        """
        for _ in range(_MAX_DEATHS - 1):
            try:
                return self._call(slot, function, *args)
            except ProcessDied as error:
                _log.warning("a grader process died: %s", error)
        return self._call(slot, function, *args)

    def _call(self, slot: _Slot, function: str, *args: Any) -> Any:
        process = self._get_process(slot)
        try:
            return process.call(function, *args, timeout_s=self._timeout_s)
        except (CallTimedOut, ProcessDied):
            self._raise_if_closed()
            self._drop_process(slot)
            raise

    def _get_process(self, slot: _Slot) -> KillableProcess:
        """Returns the slot's process; starts one if there is none, it died, or it is worn out.

        Raises:
            RuntimeError: the pool is closed, or no process starts.
        """
        process = slot.process
        if process and process.num_calls >= _VERDICTS_PER_PROCESS:
            process.kill_and_wait()
            slot.process = None
        elif process and not process.is_alive:
            self._drop_process(slot)
        for _ in range(_MAX_DEATHS):
            if slot.process:
                return slot.process
            self._start_process(slot)
        raise RuntimeError(f"{_MAX_DEATHS} grader processes in a row died before they were ready")

    def _start_process(self, slot: _Slot) -> None:
        with self._lock:  # after this, `close` kills the process
            self._raise_if_closed()
            slot.process = KillableProcess(self._context, _WORKER)
        try:
            slot.process.wait_until_ready()
        except (CallTimedOut, ProcessDied) as error:
            self._raise_if_closed()
            _log.error("a grader process did not start: %s", error)
            self._drop_process(slot)

    def _drop_process(self, slot: _Slot) -> None:
        with self._lock:
            slot.process = None
            self.num_restarts += 1

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError("the grader pool is closed")
