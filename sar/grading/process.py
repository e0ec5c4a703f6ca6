"""A process that runs functions of one module for its parent, and may be killed at any moment.

Its start is not part of any deadline: a call begins once the process has said that it is ready.
"""

from __future__ import annotations

import importlib
import pickle
import socket
import struct
import threading
import time
from multiprocessing.context import BaseContext
from typing import Any

_LENGTH = struct.Struct("!Q")
_START_TIMEOUT_S = 60.0
_READY = b"ready"

# multiprocessing keeps a list of processes that it looks through unguarded.
_starting = threading.Lock()


class CallTimedOut(Exception):
    """The function took too long, and its process was killed."""


class ProcessDied(Exception):
    """The process ended by itself, or was killed by somebody else."""


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
            CallTimedOut, ProcessDied: there is no process any more.
        """
        self._exchange(None, _START_TIMEOUT_S)

    def call(self, function: str, *args: Any, timeout_s: float) -> Any:
        """What the function returns.

        Raises:
            CallTimedOut, ProcessDied: there is no process any more.
            Exception: whatever the function raised.
        """
        self.num_calls += 1
        succeeded, outcome = self._exchange((function, args), timeout_s)
        if not succeeded:
            raise outcome
        return outcome

    def kill(self) -> None:
        """Ends it, whatever it is doing; a call that is running in another thread fails."""
        with _starting:
            self._process.kill()

    def _exchange(self, request: object, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        try:
            if request is not None:
                _send(self._connection, request, deadline)
            return _receive(self._connection, deadline)
        except TimeoutError as error:
            self.end()
            raise CallTimedOut(f"no answer after {timeout_s} s") from error
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
            outcome = False, error
        _send(connection, outcome)


def _send(connection: socket.socket, message: object, deadline: float | None = None) -> None:
    data = pickle.dumps(message)
    connection.settimeout(_remaining_s(deadline))
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _receive(connection: socket.socket, deadline: float | None = None) -> Any:
    (num_bytes,) = _LENGTH.unpack(_receive_bytes(connection, _LENGTH.size, deadline))
    # Both ends are this program's own.
    return pickle.loads(_receive_bytes(connection, num_bytes, deadline))  # noqa: S301


def _receive_bytes(connection: socket.socket, num_bytes: int, deadline: float | None) -> bytearray:
    data = bytearray()
    while len(data) < num_bytes:
        connection.settimeout(_remaining_s(deadline))
        received = connection.recv(min(num_bytes - len(data), 1 << 20))
        if not received:
            raise ConnectionResetError("the other end is gone")
        data += received
    return data


def _remaining_s(deadline: float | None) -> float | None:
    """A socket's timeout; not 0, which would mean not to wait at all."""
    return None if deadline is None else max(1e-3, deadline - time.monotonic())
