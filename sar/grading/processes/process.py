"""A worker process that runs functions of one module for the server, and that can be killed.

Time is the process's own CPU time, so a busy machine does not turn a right answer into a wrong one.
The wall clock only ends the wait for a process that gets no CPU time; that is the machine's fault
and no verdict. Where a process's CPU time cannot be read (not on Linux), every second counts as one
of CPU time.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sar.grading.processes.forkserver import ForkServer
from sar.grading.processes.serving import (
    encode_call,
    read_result,
    receive_result_bytes,
    send_bytes,
)

_START_TIMEOUT_S = 60.0
# A process has stalled if it gets less than this share of a CPU, for at least this long.
_MIN_CPU_SHARE = 0.02
_MIN_WALL_LIMIT_S = 30.0
# A stopped process has stalled after this long. Also the longest wait between two checks.
_MAX_CHECK_INTERVAL_S = 1.0


class CallTimedOut(Exception):
    """The call used up its CPU time, and its process was killed."""


class CallGaveWay(Exception):
    """The call was ended early because others wait, and its process was killed."""


class ProcessDied(Exception):
    """The process ended before it returned a result: it exited, or was killed."""


class ProcessStalled(ProcessDied):
    """The process was killed because it got too little CPU time: it was stopped, or the machine is
    busy. The machine is at fault, not the call."""


@dataclass(frozen=True)
class Budget:
    """The CPU time that a call may use."""

    cpu_s: float
    gives_way_after_s: float | None = None
    """CPU time after which the call ends as soon as `others_wait` is true."""
    others_wait: Callable[[], bool] = lambda: False

    @property
    def wall_limit_s(self) -> float:
        return max(_MIN_WALL_LIMIT_S, self.cpu_s / _MIN_CPU_SHARE)


class KillableProcess:
    """One worker process. One thread at a time may use it; any thread may kill it."""

    def __init__(self, fork_server: ForkServer, niceness: int = 0) -> None:
        """
        Args:
            fork_server: starts the process, and decides which functions it has.
            niceness: see `ForkServer.start_process`.
        Raises:
            OSError: the process cannot be started.
        """
        self.num_calls = 0
        self._fork_server = fork_server
        self._exit_code: int | None = None
        self._lock = threading.Lock()
        self._connection, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        try:
            self._pid: int | None = fork_server.start_process(theirs, lifeline, niceness)
        except OSError:
            self._connection.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline)

    def wait_until_ready(self) -> Any:
        """Waits for the process to start. Call it once, before the first `call`.

        Returns:
            What the module's `initialize` returned.
        Raises:
            CallTimedOut, ProcessDied: it did not start, and is killed; call `kill_and_wait`.
        """
        return self._exchange(None, Budget(_START_TIMEOUT_S))

    def call(self, function: str, *args: Any, budget: Budget) -> Any:
        """Calls a function of the module in the process, and returns its result.

        Args:
            function: the function's name.
            args: its arguments; they must be picklable.
            budget: the CPU time that it may use.
        Raises:
            CallTimedOut, CallGaveWay, ProcessDied, ProcessStalled: no result. The process is
                killed; call `kill_and_wait`.
            WorkerFailed: the function raised an exception.
        """
        self.num_calls += 1
        return self._exchange(encode_call(function, args), budget)

    def kill(self) -> None:
        """Kills the process, even a busy one. A call in another thread raises `ProcessDied`."""
        with self._lock:
            if self._pid is not None:  # else the number may be another process's by now
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)

    def kill_and_wait(self) -> None:
        """Kills the process, and returns once it is gone."""
        self.kill()
        if self._pid is None:
            return
        self._connection.settimeout(None)
        with suppress(OSError):
            while self._connection.recv(1 << 16):  # the system closes its end when it is gone
                pass
        with self._lock:
            self._exit_code = self._fork_server.reap(self._pid)
            self._pid = None
        self._connection.close()
        os.close(self._lifeline)

    @property
    def is_alive(self) -> bool:
        """Whether an idle process is still there. It sends nothing, so only its end is readable."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return not poll.poll(0)

    def _exchange(self, message: bytes | None, budget: Budget) -> Any:
        """Sends a message unless it is None, and returns the process's answer."""
        assert self._pid is not None
        clock = _CallClock(self._pid, budget)
        try:
            if message is not None:
                send_bytes(self._connection, message, clock.next_wait_s)
            data = receive_result_bytes(self._connection, clock.next_wait_s)
            return read_result(data)
        except (CallTimedOut, CallGaveWay, ProcessStalled):
            self.kill()  # freeing its memory may take a while, so the caller waits when it likes
            raise
        except (OSError, ValueError, RecursionError) as error:
            self.kill_and_wait()
            raise ProcessDied(f"exit code {self._exit_code}, {error}") from error


class _CallClock:
    """The time that one call has used, and the time that it has left."""

    def __init__(self, pid: int, budget: Budget) -> None:
        self._pid = pid
        self._budget = budget
        self._started_s = time.monotonic()
        self._cpu_before_s = _read_cpu_s(pid)

    def next_wait_s(self) -> float:
        """Returns how many seconds to wait for the process before the next check.

        Raises:
            CallTimedOut, CallGaveWay: the process has used its CPU time.
            ProcessStalled: the process gets too little CPU time.
        """
        budget = self._budget
        elapsed_s = time.monotonic() - self._started_s
        first_check_s = budget.gives_way_after_s or budget.cpu_s
        if elapsed_s < min(first_check_s, _MAX_CHECK_INTERVAL_S):
            # It has used less CPU time than that. This is the usual case, so nothing is read.
            return max(1e-3, min(first_check_s, _MAX_CHECK_INTERVAL_S) - elapsed_s)
        used_s = self._read_used_s(elapsed_s)
        if used_s >= budget.cpu_s:
            raise CallTimedOut(f"no result after {used_s:.2f} s of CPU time")
        is_stopped = elapsed_s >= _MAX_CHECK_INTERVAL_S and _is_stopped(self._pid)
        if is_stopped or elapsed_s >= budget.wall_limit_s:
            raise ProcessStalled(f"it had {used_s:.2f} s of CPU time in {elapsed_s:.1f} s")
        left_s = budget.cpu_s - used_s
        if (gives_way_s := budget.gives_way_after_s) is not None:
            if used_s >= gives_way_s and budget.others_wait():
                raise CallGaveWay(f"others wait, after {used_s:.2f} s of CPU time")
            # Others may come at any time: look as often as every `gives_way_s`.
            left_s = min(left_s, gives_way_s - used_s if used_s < gives_way_s else gives_way_s)
        return max(1e-3, min(left_s, _MAX_CHECK_INTERVAL_S))

    def _read_used_s(self, elapsed_s: float) -> float:
        if self._cpu_before_s is None:
            return elapsed_s
        now_s = _read_cpu_s(self._pid)
        if now_s is None:
            raise ProcessLookupError("the process has gone")
        return now_s - self._cpu_before_s


def _read_cpu_s(pid: int) -> float | None:
    """The CPU seconds that a process has used; None if the system does not say."""
    try:
        # Linux's number for a process's CPU clock: what clock_getcpuclockid(3) computes.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def _is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process. False on a system without /proc."""
    try:
        # The process's name comes first, in parentheses; it may contain spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
