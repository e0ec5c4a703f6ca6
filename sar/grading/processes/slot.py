"""One place of a grader pool: one process at a time, replaced if it dies, is late or worn out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from sar.grading.processes.forkserver import ForkServer
from sar.grading.processes.process import (
    Budget,
    CallGaveWay,
    CallTimedOut,
    KillableProcess,
    ProcessDied,
    ProcessStalled,
)

# A process is replaced after this many calls, because sympy's caches grow.
_MAX_CALLS = 2000
# The call is blamed when this many processes in a row die on it. Also the number of processes in a
# row that may fail to start.
_MAX_DEATHS = 3
# A call is given up when this many processes in a row stall on it.
_MAX_STALLS = 2

_log = logging.getLogger(__name__)


class PoolClosed(RuntimeError):
    """The grader pool is closed."""

    def __init__(self) -> None:
        super().__init__("the grader pool is closed")


class Slot:
    """Calls a worker's functions. One thread at a time may use it; any thread may close it."""

    def __init__(
        self,
        fork_server: ForkServer,
        niceness: int = 0,
        on_ready: Callable[[str], None] = lambda protections: None,
    ) -> None:
        """
        Args:
            on_ready: called when a process is ready, with the protections that hold in it.
        """
        self.num_restarts = 0
        """Processes that timed out or died."""
        self._fork_server = fork_server
        self._niceness = niceness
        self._on_ready = on_ready
        self._lock = threading.Lock()
        self._process: KillableProcess | None = None
        self._dropped: KillableProcess | None = None
        self._is_closed = False

    def call(self, function: str, *args: Any, budget: Budget) -> Any:
        """Calls a function; again in a new process if the process dies or stalls.

        The machine may kill a process now and then; if each one dies, the call is at fault.

        Raises:
            CallTimedOut, CallGaveWay: it used its CPU time.
            ProcessDied: every process died on it.
            ProcessStalled: the machine gave no process enough CPU time.
            RuntimeError: the pool is closed, or no process starts.
            WorkerFailed: the function raised an exception.
        """
        num_deaths = num_stalls = 0
        while True:
            try:
                return self._call_once(function, args, budget)
            except ProcessDied as error:
                _log.warning("a grader process died: %s", error)
                num_deaths += 1
                num_stalls += isinstance(error, ProcessStalled)
                if num_deaths == _MAX_DEATHS or num_stalls == _MAX_STALLS:
                    raise

    def start(self) -> None:
        """Starts the process, unless there is one.

        Raises:
            RuntimeError: the pool is closed, or no process starts.
        """
        for _ in range(_MAX_DEATHS):
            if self._process:
                return
            self._raise_if_closed()
            self._start_process()
        raise RuntimeError(f"{_MAX_DEATHS} grader processes in a row died before they were ready")

    def retire_process(self) -> None:
        """Ends the process, and with it the memory that it holds. The next call starts another."""
        self._drop_process()
        self._wait_for_dropped()

    def kill(self) -> None:
        """Ends a call in another thread, and refuses further ones."""
        with self._lock:
            self._is_closed = True
            if self._process:
                self._process.kill()

    def _call_once(self, function: str, args: tuple[Any, ...], budget: Budget) -> Any:
        process = self._get_process()
        try:
            return process.call(function, *args, budget=budget)
        except (CallTimedOut, CallGaveWay, ProcessDied):
            self._raise_if_closed()
            self.num_restarts += 1
            self._drop_process()
            raise

    def _get_process(self) -> KillableProcess:
        if self._process and not self._process.is_alive:
            self.num_restarts += 1
            self._drop_process()
        elif self._process and self._process.num_calls >= _MAX_CALLS:
            self._drop_process()
        self.start()
        assert self._process
        return self._process

    def _start_process(self) -> None:
        try:
            process = KillableProcess(self._fork_server, self._niceness)
        except OSError as error:
            self._raise_if_closed()
            _log.error("a grader process did not start: %s", error)
            return
        with self._lock:
            self._process = process
            if self._is_closed:  # else `kill` kills it
                process.kill()
        self._wait_for_dropped()  # while the new one starts
        try:
            self._on_ready(process.wait_until_ready())
        except (CallTimedOut, ProcessDied) as error:
            self._raise_if_closed()
            _log.error("a grader process did not start: %s", error)
            self.num_restarts += 1
            self._drop_process()

    def _drop_process(self) -> None:
        """Kills the process. Its end is awaited later, because freeing its memory takes time."""
        self._wait_for_dropped()
        with self._lock:
            self._dropped, self._process = self._process, None
        if self._dropped:
            self._dropped.kill()

    def _wait_for_dropped(self) -> None:
        if self._dropped:
            self._dropped.kill_and_wait()
            self._dropped = None

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise PoolClosed
