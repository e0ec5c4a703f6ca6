"""A worker process that runs functions of one module for its parent, and that can be killed.

A call times out after `timeout_s` of wall time if its process used the CPU for at least a fifth of
that time. If it used less, the machine held it up, and we wait up to ten times as long: a busy
machine must not turn a right answer into a wrong one. Starting the process is no part of a call's
time.
"""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import struct
import threading
import time
from contextlib import suppress
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

_LENGTH = struct.Struct("!Q")
_START_TIMEOUT_S = 60.0
# A call times out after `timeout_s` if its process used the CPU for at least this share of it.
# If not, the machine held the process up: we wait up to _MAX_WAIT_FACTOR times `timeout_s`.
_MIN_CPU_SHARE = 0.2
_MAX_WAIT_FACTOR = 10

# multiprocessing's list of child processes is not thread-safe.
_children_lock = threading.Lock()


class CallTimedOut(Exception):
    """The function used up its time, and its process was killed."""


class ProcessDied(Exception):
    """The process ended before it returned a result: it exited, or was killed."""


class ProcessStalled(ProcessDied):
    """The process was killed after it got too little CPU time: it was stopped, or the machine is
    busy. The machine is at fault, not the call."""


class KillableProcess:
    """One worker process. One thread at a time may use it; any thread may kill it."""

    def __init__(self, context: BaseContext, module: str) -> None:
        """
        Args:
            context: the multiprocessing context that starts the process.
            module: name of the module with the functions. The process first runs its
                `initialize()`.
        """
        self.num_calls = 0
        self._connection, theirs = socket.socketpair()
        with _children_lock, theirs:
            self._process: Any = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(theirs, module), daemon=True
            )
            self._process.start()

    def wait_until_ready(self) -> None:
        """Waits for the process to start. Call it once, before the first `call`.

        Raises:
            CallTimedOut, ProcessDied, ProcessStalled: it did not start; the process is gone.
        """
        self._exchange(None, _START_TIMEOUT_S, max_wait_factor=1)

    def call(self, function: str, *args: Any, timeout_s: float) -> Any:
        """Calls a function of the module in the process, and returns its result.

        Args:
            function: the function's name.
            args: its arguments; they must be picklable.
            timeout_s: how long it may run (see the module's docstring).
        Raises:
            CallTimedOut, ProcessDied, ProcessStalled: no result; the process is gone.
            Exception: any exception that the function raised.
        """
        self.num_calls += 1
        succeeded, outcome = self._exchange((function, args), timeout_s, _MAX_WAIT_FACTOR)
        if not succeeded:
            raise outcome
        return outcome

    def kill(self) -> None:
        """Kills the process, even a busy one. A call in another thread raises `ProcessDied`."""
        with _children_lock:
            self._process.kill()

    def kill_and_wait(self) -> None:
        """Kills the process, and returns once it is gone."""
        self.kill()
        self._process.join()
        self._connection.close()

    @property
    def is_alive(self) -> bool:
        return bool(self._process.is_alive())

    def _exchange(self, request: object, timeout_s: float, max_wait_factor: float) -> Any:
        """Sends a request unless it is None, and returns the process's next message.

        Raises:
            CallTimedOut, ProcessDied, ProcessStalled: there is none; the process is gone.
        """
        deadline = _Deadline(self._process.pid, timeout_s, max_wait_factor)
        try:
            if request is not None:
                _send(self._connection, request, deadline)
            return _receive(self._connection, deadline)
        except (CallTimedOut, ProcessStalled):
            self.kill_and_wait()
            raise
        except OSError as error:
            self.kill_and_wait()
            raise ProcessDied(f"exit code {self._process.exitcode}") from error


class _Deadline:
    """The time that a process has for one exchange; longer if it gets little CPU time."""

    def __init__(self, pid: int, timeout_s: float, max_wait_factor: float) -> None:
        self._pid = pid
        self._timeout_s = timeout_s
        self._max_wait_s = timeout_s * max_wait_factor
        self._started_s = time.monotonic()
        self._cpu_before_s, _ = _read_cpu_usage(pid)

    def check(self) -> float:
        """Returns how many seconds to wait for the process before the next check.

        Raises:
            CallTimedOut: the process is late although it had CPU time.
            ProcessStalled: the process is late because it had too little CPU time.
        """
        elapsed_s = time.monotonic() - self._started_s
        if elapsed_s < self._timeout_s:
            return max(1e-3, self._timeout_s - elapsed_s)
        cpu_s, is_stopped = _read_cpu_usage(self._pid)
        cpu_s -= self._cpu_before_s
        if cpu_s >= _MIN_CPU_SHARE * self._timeout_s:
            raise CallTimedOut(f"no result after {elapsed_s:.1f} s")
        if is_stopped or elapsed_s >= self._max_wait_s:
            raise ProcessStalled(f"it had {cpu_s:.1f} s of CPU time in {elapsed_s:.1f} s")
        return _MIN_CPU_SHARE * self._timeout_s


def _read_cpu_usage(pid: int) -> tuple[float, bool]:
    """Returns the CPU seconds that a process has used, and whether it is stopped.

    On a system without /proc, the process counts as always running.
    """
    try:
        # The process's name comes first, in parentheses; it may contain spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic(), False
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] == "T"


def _serve(connection: socket.socket, module_name: str) -> None:
    """Runs in the process: answers requests until the parent closes the connection or exits."""
    module = importlib.import_module(module_name)
    module.initialize()
    _send(connection, "ready")
    while True:
        try:
            function, args = _receive(connection)
        except ConnectionError:
            return
        try:
            outcome = True, getattr(module, function)(*args)
        except Exception as error:  # noqa: BLE001  `call` raises it in the parent
            outcome = False, _make_picklable(error)
        _send(connection, outcome)


def _make_picklable(error: Exception) -> Exception:
    """Returns the exception, or a RuntimeError with its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  made by this program
    except Exception:  # noqa: BLE001  an exception's arguments can be any object
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _send(connection: socket.socket, message: object, deadline: _Deadline | None = None) -> None:
    """Sends a pickled message after its length; `deadline.check` may raise meanwhile."""
    data = pickle.dumps(message)
    unsent = memoryview(_LENGTH.pack(len(data)) + data)
    while unsent:
        connection.settimeout(deadline.check() if deadline else None)
        with suppress(TimeoutError):
            unsent = unsent[connection.send(unsent) :]


def _receive(connection: socket.socket, deadline: _Deadline | None = None) -> Any:
    (num_bytes,) = _LENGTH.unpack(_receive_bytes(connection, _LENGTH.size, deadline))
    # This program made the data: both ends are its own.
    return pickle.loads(_receive_bytes(connection, num_bytes, deadline))  # noqa: S301


def _receive_bytes(
    connection: socket.socket, num_bytes: int, deadline: _Deadline | None
) -> bytearray:
    data = bytearray()
    while len(data) < num_bytes:
        connection.settimeout(deadline.check() if deadline else None)
        with suppress(TimeoutError):
            received = connection.recv(min(num_bytes - len(data), 1 << 20))
            if not received:
                raise ConnectionResetError("the other end has closed the connection")
            data += received
    return data
