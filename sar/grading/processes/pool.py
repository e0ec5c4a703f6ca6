"""Graders in processes of their own, killed when late and replaced.

Text that makes a grader run forever, eat memory or die is ordinary in training, and math-verify's
own timeouts do nothing outside a main thread. Here the clock runs in the parent, from the moment a
process takes the work up, and what the text did is told apart from what its label or the machine
did: a process that dies gets its work done again by another one before the text is blamed.
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

from sar.grading.label import Label
from sar.grading.processes.process import CallTimedOut, KillableProcess, ProcessDied, ProcessStalled
from sar.grading.verdict import Reason, Verdict

_WORKER = "sar.grading.processes.worker"
# A process is replaced after so many verdicts: sympy's caches grow.
_VERDICTS_PER_PROCESS = 2000
# Processes that may die over a text before it is the text that is blamed, and that may fail to
# start, one after the other.
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
    """A place for one process at a time."""

    process: KillableProcess | None = None


class GraderPool:
    """Grades responses in killable processes. Safe to use from many threads."""

    def __init__(
        self,
        num_workers: int,
        timeout_s: float,
        on_graded: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """
        Args:
            num_workers: grader processes.
            timeout_s: seconds of work one response may take, its time in the queue not counted.
            on_graded: told the seconds that each verdict took, from many threads.
        """
        self.num_restarts = 0
        """Processes that were late or died, and were replaced."""
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
        """Queues a response (see `sar.grading.grade.grade`).

        The future raises what a grader itself is at fault for; that is never a verdict of wrong.
        """
        job = _Job(response, label)
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the grader pool is closed")
            self._jobs.put(job)
        return job.future

    def grade(self, response: str, label: Label) -> Verdict:
        """Queues a response and waits for its verdict."""
        return self.submit(response, label).result()

    def close(self) -> None:
        """Ends the processes, whatever they are doing; verdicts still waited for are errors."""
        with self._lock:
            self._is_closed = True
            for slot in self._slots:
                self._jobs.put(None)
                if slot.process:
                    slot.process.kill()
        for thread in self._threads:
            thread.join()

    def _run(self, slot: _Slot) -> None:
        """One thread, with one process at a time."""
        # A start that fails is tried again for the first job, which hears of it.
        with suppress(RuntimeError, OSError, EOFError):
            self._process_in(slot)
        while job := self._jobs.get():
            if not job.future.set_running_or_notify_cancel():
                continue
            start_s = time.monotonic()
            try:
                verdict = self._verdict(slot, job.response, job.label)
            except Exception as error:  # noqa: BLE001  whatever it is, who waits must hear of it
                job.future.set_exception(error)
            else:
                job.future.set_result(verdict)
                self._on_graded(time.monotonic() - start_s)
        if slot.process:
            slot.process.end()

    def _verdict(self, slot: _Slot, response: str, label: Label) -> Verdict:
        read_label = label not in self._hostile_labels
        verdict = self._attempt(slot, response, label, read_label)
        was_stopped = verdict.reason in (Reason.TIMEOUT, Reason.CRASHED)
        if was_stopped and read_label and self._label_is_hostile(slot, label):
            # The label is to blame; as text it harms nobody.
            return replace(self._attempt(slot, response, label, False), label_unreadable=True)
        return verdict

    def _attempt(self, slot: _Slot, response: str, label: Label, read_label: bool) -> Verdict:
        try:
            verdict: Verdict = self._call_again(slot, "run", response, label, read_label)
            return verdict
        except CallTimedOut:
            return Verdict(Reason.TIMEOUT)
        except ProcessStalled:
            raise  # the machine's fault is no verdict
        except ProcessDied:
            return Verdict(Reason.CRASHED)

    def _label_is_hostile(self, slot: _Slot, label: Label) -> bool:
        """Whether reading the label alone takes a grader down: then no response is to blame."""
        if label.grader != "math" or label in self._hostile_labels:
            return label in self._hostile_labels
        try:
            if self._call_again(slot, "check_label", label):
                return False
        except ProcessStalled:
            raise
        except (CallTimedOut, ProcessDied):
            pass  # as hostile as one that says so
        _log.warning("a label cannot be read and is compared as text: %.80r", label.answer)
        if len(self._hostile_labels) < _MAX_HOSTILE_LABELS:
            self._hostile_labels.add(label)
        return True

    def _call_again(self, slot: _Slot, function: str, *args: Any) -> Any:
        """What a process that dies or stands still leaves is done by another: a few times can be
        the machine's doing, dying again and again is the text's."""
        for _ in range(_MAX_DEATHS - 1):
            try:
                return self._call(slot, function, *args)
            except ProcessDied as error:
                _log.warning("a grader process died: %s", error)
        return self._call(slot, function, *args)

    def _call(self, slot: _Slot, function: str, *args: Any) -> Any:
        process = self._process_in(slot)
        try:
            return process.call(function, *args, timeout_s=self._timeout_s)
        except (CallTimedOut, ProcessDied):
            self._raise_if_closed()
            self._replace(slot)
            raise

    def _process_in(self, slot: _Slot) -> KillableProcess:
        """The slot's process, a new one where it has none that is fit for work.

        Raises:
            RuntimeError: the pool is closed, or no process starts.
        """
        process = slot.process
        if process and process.num_calls >= _VERDICTS_PER_PROCESS:
            process.end()
            slot.process = None
        elif process and not process.is_alive:
            self._replace(slot)
        for _ in range(_MAX_DEATHS):
            if slot.process:
                return slot.process
            self._start(slot)
        raise RuntimeError(f"grader processes die before they are ready, {_MAX_DEATHS} in a row")

    def _start(self, slot: _Slot) -> None:
        with self._lock:  # from here on, `close` sees the process
            self._raise_if_closed()
            slot.process = KillableProcess(self._context, _WORKER)
        try:
            slot.process.wait_until_ready()
        except (CallTimedOut, ProcessDied) as error:
            self._raise_if_closed()
            _log.error("a grader process did not start: %s", error)
            self._replace(slot)

    def _replace(self, slot: _Slot) -> None:
        with self._lock:
            slot.process = None
            self.num_restarts += 1

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError("the grader pool is closed")
