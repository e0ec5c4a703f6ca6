"""Messages between the server and a worker process, and the worker's loop.

Calls go to the worker as pickles. Results come back as JSON, because unpickling what a worker sends
would let code that took the worker over run in the server.
"""

from __future__ import annotations

import json
import pickle
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

_LENGTH = struct.Struct("!Q")
# A longer result is no result: a response of a million characters stays below it.
_MAX_RESULT_BYTES = 64 * 2**20
_MAX_ERROR_CHARS = 1000


class WorkerFailed(Exception):
    """A function in the worker raised an exception; the message names it."""


def serve(module: Any, connection: socket.socket, lifeline: int) -> None:
    """Runs in the worker: answers calls until the server closes the connection."""
    send_bytes(connection, _run(module.initialize, (lifeline,)))
    while True:
        try:
            # The server made these bytes.
            function, args = pickle.loads(receive_bytes(connection))  # noqa: S301
        except ConnectionError:
            return
        send_bytes(connection, _run(getattr(module, function), args))


def _run(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    try:
        return json.dumps({"result": function(*args)}, default=asdict).encode()
    except Exception as error:  # noqa: BLE001  `read_result` raises it in the server
        text = f"{type(error).__name__}: {error}"
        return json.dumps({"error": text[:_MAX_ERROR_CHARS]}).encode()


def encode_call(function: str, args: tuple[Any, ...]) -> bytes:
    return pickle.dumps((function, args))


def read_result(data: bytearray) -> Any:
    """Returns the function's result, a dataclass as a dictionary.

    Raises:
        WorkerFailed: the function raised an exception.
        ValueError: the bytes are no result.
    """
    outcome = json.loads(data)
    if not isinstance(outcome, dict) or not outcome.keys() & {"result", "error"}:
        raise ValueError("a worker's message is no result")
    if "error" in outcome:
        raise WorkerFailed(str(outcome["error"]))
    return outcome["result"]


def send_bytes(
    connection: socket.socket, data: bytes, next_wait_s: Callable[[], float | None] = lambda: None
) -> None:
    """Sends a message: its length, then its bytes.

    Args:
        next_wait_s: called before each wait; returns how long it may last, or raises.
    """
    unsent = memoryview(_LENGTH.pack(len(data)) + data)
    while unsent:
        connection.settimeout(next_wait_s())
        with suppress(TimeoutError):
            unsent = unsent[connection.send(unsent) :]


def receive_bytes(
    connection: socket.socket,
    next_wait_s: Callable[[], float | None] = lambda: None,
    max_bytes: int = 2**62,
) -> bytearray:
    """Receives a message; see `send_bytes`."""
    (num_bytes,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size, next_wait_s))
    if num_bytes > max_bytes:
        raise ConnectionAbortedError(f"a message of {num_bytes} bytes")
    return _receive_exactly(connection, num_bytes, next_wait_s)


def receive_result_bytes(
    connection: socket.socket, next_wait_s: Callable[[], float | None]
) -> bytearray:
    """Receives a worker's message, if it is not too long."""
    return receive_bytes(connection, next_wait_s, _MAX_RESULT_BYTES)


def _receive_exactly(
    connection: socket.socket, num_bytes: int, next_wait_s: Callable[[], float | None]
) -> bytearray:
    data = bytearray()
    while len(data) < num_bytes:
        connection.settimeout(next_wait_s())
        with suppress(TimeoutError):
            received = connection.recv(min(num_bytes - len(data), 1 << 20))
            if not received:
                raise ConnectionResetError("the other end has closed the connection")
            data += received
    return data
