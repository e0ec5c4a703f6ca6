"""Graders in processes of their own, killed when late and replaced.

Text that makes a grader run forever, eat memory or die is ordinary in training, and math-verify's
own timeouts do nothing outside a main thread. Here the clock runs in the parent, from the moment a
process takes the work up, and what the text did is told apart from what its label or the machine
did: a process that dies gets its work done again by another one before the text is blamed.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict

_WORKER = "sar.grading.worker"
# A process is replaced after so many verdicts: sympy's caches grow.
_VERDICTS_PER_PROCESS = 2000
_MAX_RESTARTS = 5
_POLL_S = 1.0
_MAX_HOSTILE_LABELS = 1000

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work(Generic[_T]):
    """Something a process is to do, and the pool it was given to."""

    pool: ProcessPool
    future: ProcessFuture[_T]


class GraderPool:
    """Grades responses in killable processes. Safe to use from many threads."""

    def __init__(self, num_workers: int, timeout_s: float) -> None:
        """
        Args:
            num_workers: grader processes.
            timeout_s: seconds of work one response may take, its time in the queue not counted.
        """
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._is_closed = False
        self._hostile_labels: set[Label] = set()
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([_WORKER])
        self._pool = self._new_pool()

    def submit(self, response: str, label: Label) -> PendingVerdict:
        """Queues a response (see `sar.grading.grade.grade`); ask the result for its verdict."""
        read_label = label not in self._hostile_labels
        work = self._start_grading(response, label, read_label)
        return PendingVerdict(lambda: self._verdict(response, label, read_label, work))

    def grade(self, response: str, label: Label) -> Verdict:
        """Queues a response and waits for its verdict."""
        return self.submit(response, label).verdict()

    def close(self) -> None:
        """Ends the processes, whatever they are doing; verdicts still waited for are errors."""
        with self._lock:
            self._is_closed = True
            self._end(self._pool)

    def _verdict(
        self, response: str, label: Label, read_label: bool, work: _Work[Verdict]
    ) -> Verdict:
        verdict = self._attempt(response, label, read_label, work)
        was_stopped = verdict.reason in (Reason.TIMEOUT, Reason.CRASHED)
        if was_stopped and read_label and self._label_is_hostile(label):
            # The label is to blame; as text it harms nobody.
            work = self._start_grading(response, label, False)
            return replace(self._attempt(response, label, False, work), label_unreadable=True)
        return verdict

    def _attempt(
        self, response: str, label: Label, read_label: bool, work: _Work[Verdict]
    ) -> Verdict:
        """The verdict on work that was started. A process that dies gets a second one to try it:
        once can be the machine's doing, twice is the text's."""

        def start() -> _Work[Verdict]:
            return self._start_grading(response, label, read_label)

        for is_last in (False, True):
            try:
                return self._result(work, start)
            except TimeoutError:
                return Verdict(Reason.TIMEOUT)
            except ProcessExpired as error:
                _log.warning("a grader process died: %s", error)
                if not is_last:
                    work = start()
        return Verdict(Reason.CRASHED)

    def _label_is_hostile(self, label: Label) -> bool:
        """Whether reading the label alone takes a grader down: then no response is to blame."""
        if label.grader != "math" or label in self._hostile_labels:
            return label in self._hostile_labels
        try:
            self._result(self._start_check(label), lambda: self._start_check(label))
        except (TimeoutError, ProcessExpired):
            _log.warning("a label cannot be read and is compared as text: %.80r", label.answer)
            if len(self._hostile_labels) < _MAX_HOSTILE_LABELS:
                self._hostile_labels.add(label)
            return True
        return False

    def _result(self, work: _Work[_T], restart: Callable[[], _Work[_T]]) -> _T:
        """The result of some work; what a broken pool lost is started again."""
        for _ in range(_MAX_RESTARTS):
            while not work.future.done() and work.pool.active:
                # Not without limit: a pool that breaks can leave queued work waiting for ever.
                wait([work.future], timeout=_POLL_S)
            if work.future.done():
                try:
                    return work.future.result()
                except (CancelledError, RuntimeError) as error:
                    if work.pool.active and not isinstance(error, CancelledError):
                        raise  # a grader's own error, and not the pool's
            _log.warning("the grader pool broke; starting the work again")
            work = restart()
        raise RuntimeError(f"the grader pool broke {_MAX_RESTARTS} times")

    def _start_grading(self, response: str, label: Label, read_label: bool) -> _Work[Verdict]:
        return self._schedule("run", response, label, read_label=read_label)

    def _start_check(self, label: Label) -> _Work[bool]:
        return self._schedule("check_label", label)

    def _schedule(self, function: str, *args: Any, **kwargs: Any) -> _Work[Any]:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the grader pool is closed")
            if not self._pool.active:
                # pebble gives a pool up for good when an idle process of it dies.
                self._end(self._pool)
                self._pool = self._new_pool()
            future = self._pool.schedule(
                _call, args=(function, args, kwargs), timeout=self._timeout_s
            )
            return _Work(self._pool, future)

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._num_workers,
            max_tasks=_VERDICTS_PER_PROCESS,
            initializer=_initialize,
            context=self._context,
        )

    @staticmethod
    def _end(pool: ProcessPool) -> None:
        pool.stop()
        pool.join()


class PendingVerdict:
    """A verdict that is being worked on."""

    def __init__(self, wait_for_verdict: Callable[[], Verdict]) -> None:
        self._wait_for_verdict = wait_for_verdict

    def verdict(self) -> Verdict:
        """Waits for the verdict.

        Raises:
            Exception: the grader itself is at fault; never a verdict of wrong.
        """
        return self._wait_for_verdict()


def _initialize() -> None:
    _worker().initialize()


def _call(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return getattr(_worker(), function)(*args, **kwargs)


def _worker() -> Any:
    import sar.grading.worker

    return sar.grading.worker
