"""A process that runs functions of one module for its parent, and may be killed at any moment.

Its start is not part of any deadline: a call begins once the process has said that it is ready.
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
_READY = b"ready"
# A process that is late and had less of a processor was held up by the machine: it is waited for
# so many times as long.
_MIN_CPU_SHARE = 0.2
_PATIENCE = 10

# multiprocessing keeps a list of processes that it looks through unguarded.
_starting = threading.Lock()


class CallTimedOut(Exception):
    """The function took too long, and its process was killed."""


class ProcessDied(Exception):
    """The process ended by itself, or was killed by somebody else."""


class ProcessStalled(ProcessDied):
    """The process hardly ran (it was stopped, or the machine had no time for it), and was killed:
    what it was given is not to blame."""


class KillableProcess:
    """One process; used by one thread at a time, except that any thread may kill it."""

    def __init__(self, context: BaseContext, module: str) -> None:
        """
        Args:
            module: name of the module that has the functions, among them `initialize()`, which the
                process runs first.
        """
        self.num_calls = 0
        self._connection, theirs = socket.socketpair()
        with _starting, theirs:
            self._process: Any = context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(theirs, module), daemon=True
            )
            self._process.start()

    def wait_until_ready(self) -> None:
        """To be called once, before the first call.

        Raises:
            ProcessStalled, CallTimedOut, ProcessDied: there is no process any more.
        """
        self._exchange(None, _START_TIMEOUT_S)

    def call(self, function: str, *args: Any, timeout_s: float) -> Any:
        """What the function returns.

        Raises:
            CallTimedOut, ProcessDied, ProcessStalled: there is no process any more.
            Exception: whatever the function raised.
        """
        self.num_calls += 1
        succeeded, outcome = self._exchange((function, args), timeout_s, _PATIENCE)
        if not succeeded:
            raise outcome
        return outcome

    def kill(self) -> None:
        """Ends it, whatever it is doing; a call that is running in another thread fails."""
        with _starting:
            self._process.kill()

    def _exchange(self, request: object, timeout_s: float, patience: float = 1.0) -> Any:
        allowance = _Allowance(self._process.pid, timeout_s, patience)
        try:
            if request is not None:
                _send(self._connection, request, allowance)
            return _receive(self._connection, allowance)
        except (CallTimedOut, ProcessStalled):
            self.end()
            raise
        except OSError as error:
            self.end()
            raise ProcessDied(f"exit code {self._process.exitcode}") from error

    @property
    def is_alive(self) -> bool:
        return bool(self._process.is_alive())

    def end(self) -> None:
        """Kills it, and returns once it is gone."""
        self.kill()
        self._process.join()
        self._connection.close()


class _Allowance:
    """The time that a process has for one exchange."""

    def __init__(self, pid: int, timeout_s: float, patience: float) -> None:
        self._pid = pid
        self._timeout_s = timeout_s
        self._most_s = timeout_s * patience
        self._started_s = time.monotonic()
        self._cpu_before_s, _ = _usage(pid)

    def wait_s(self) -> float:
        """How long to wait before asking again.

        Raises:
            CallTimedOut: it is late, and was at work.
            ProcessStalled: it is late, and was held up.
        """
        elapsed_s = time.monotonic() - self._started_s
        if elapsed_s < self._timeout_s:
            return max(1e-3, self._timeout_s - elapsed_s)
        cpu_s, is_stopped = _usage(self._pid)
        cpu_s -= self._cpu_before_s
        if cpu_s >= _MIN_CPU_SHARE * self._timeout_s:
            raise CallTimedOut(f"no answer after {elapsed_s:.1f} s")
        if is_stopped or elapsed_s >= self._most_s:
            raise ProcessStalled(f"it ran {cpu_s:.1f} s in {elapsed_s:.1f} s")
        return _MIN_CPU_SHARE * self._timeout_s


def _usage(pid: int) -> tuple[float, bool]:
    """Processor seconds that a process has used, and whether it is stopped; where there is no
    /proc, it counts as running all the time."""
    try:
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic(), False
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] == "T"


def _serve(connection: socket.socket, module_name: str) -> None:
    """The process: answers requests until the parent closes the connection, or is gone."""
    module = importlib.import_module(module_name)
    module.initialize()
    _send(connection, _READY)
    while True:
        try:
            function, args = _receive(connection)
        except ConnectionError:
            return
        try:
            outcome = True, getattr(module, function)(*args)
        except Exception as error:  # noqa: BLE001  it is the parent's to deal with
            outcome = False, _portable(error)
        _send(connection, outcome)


def _portable(error: Exception) -> Exception:
    """An exception that survives the way to the parent: not all that can be raised can be sent."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    except Exception:  # noqa: BLE001  whatever its arguments do
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _send(connection: socket.socket, message: object, allowance: _Allowance | None = None) -> None:
    data = pickle.dumps(message)
    unsent = memoryview(_LENGTH.pack(len(data)) + data)
    while unsent:
        connection.settimeout(allowance.wait_s() if allowance else None)
        with suppress(TimeoutError):
            unsent = unsent[connection.send(unsent) :]


def _receive(connection: socket.socket, allowance: _Allowance | None = None) -> Any:
    (num_bytes,) = _LENGTH.unpack(_receive_bytes(connection, _LENGTH.size, allowance))
    # Both ends are this program's own.
    return pickle.loads(_receive_bytes(connection, num_bytes, allowance))  # noqa: S301


def _receive_bytes(
    connection: socket.socket, num_bytes: int, allowance: _Allowance | None
) -> bytearray:
    data = bytearray()
    while len(data) < num_bytes:
        connection.settimeout(allowance.wait_s() if allowance else None)
        with suppress(TimeoutError):
            received = connection.recv(min(num_bytes - len(data), 1 << 20))
            if not received:
                raise ConnectionResetError("the other end is gone")
            data += received
    return data
