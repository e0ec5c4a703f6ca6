"""Sends many one-rollout requests, each on its own connection, as OpenRLHF does: all at once, or a
steady number in flight.

Uses one thread and plain sockets. The client shares the machine with the server that it measures,
and OpenRLHF's own client (aiohttp) would take about as much CPU time as the server.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_CHUNK_BYTES = 65536


@dataclass
class _Exchange:
    connection: socket.socket
    unsent: memoryview
    received: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class LoadResult:
    """Answers in the order of the requests, and seconds from first byte sent to last byte read."""

    answers: list[dict[str, Any]]
    elapsed_s: float


def encode_request(
    host: str, payload: dict[str, Any], headers: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of one `POST /get_reward`."""
    body = json.dumps(payload).encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = (
        f"POST /get_reward HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{lines}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def send_at_once(url: str, payloads: Sequence[dict[str, Any]], timeout_s: float) -> LoadResult:
    """Sends every request at once and waits for all answers.

    Raises:
        RuntimeError: an answer's status is not 200, or `timeout_s` has passed.
    """
    address = urlsplit(url)
    requests = [encode_request(address.netloc, payload) for payload in payloads]
    exchanges: list[_Exchange] = []
    with selectors.DefaultSelector() as selector:
        start = time.perf_counter()
        exchanges += [_start(selector, address.hostname, address.port, one) for one in requests]
        while selector.get_map():
            if time.perf_counter() - start > timeout_s:
                raise RuntimeError(f"{len(selector.get_map())} requests without an answer")
            for key, _ in selector.select(timeout=1):
                _send_or_receive(selector, key.data)
        elapsed_s = time.perf_counter() - start
    return LoadResult([_parse_answer(exchange.received) for exchange in exchanges], elapsed_s)


class SteadyLoad:
    """Keeps a number of requests in flight: each answer is followed by the next request."""

    def __init__(self, url: str, requests: Iterator[bytes], in_flight: int) -> None:
        """
        Args:
            requests: from `encode_request`; as many as are asked for.
        """
        self._address = urlsplit(url)
        self._requests = requests
        self._selector = selectors.DefaultSelector()
        for _ in range(in_flight):
            self._send_next()

    def run(self, duration_s: float) -> list[dict[str, Any]]:
        """Sends and receives for so long. Returns the answers that have come.

        Raises:
            RuntimeError: an answer's status is not 200.
        """
        answers = []
        end_s = time.perf_counter() + duration_s
        while (left_s := end_s - time.perf_counter()) > 0:
            for key, _ in self._selector.select(timeout=left_s):
                if _send_or_receive(self._selector, key.data):
                    answers.append(_parse_answer(key.data.received))
                    self._send_next()
        return answers

    def close(self) -> None:
        """Closes the connections, without waiting for answers."""
        for key in list(self._selector.get_map().values()):
            key.data.connection.close()
        self._selector.close()

    def _send_next(self) -> None:
        _start(self._selector, self._address.hostname, self._address.port, next(self._requests))


def _start(
    selector: selectors.BaseSelector, host: str | None, port: int | None, request: bytes
) -> _Exchange:
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex((host, port))
    exchange = _Exchange(connection, memoryview(request))
    selector.register(connection, selectors.EVENT_WRITE, exchange)
    return exchange


def _send_or_receive(selector: selectors.BaseSelector, exchange: _Exchange) -> bool:
    """Whether the answer is complete."""
    connection = exchange.connection
    if exchange.unsent:
        exchange.unsent = exchange.unsent[connection.send(exchange.unsent) :]
        if not exchange.unsent:
            selector.modify(connection, selectors.EVENT_READ, exchange)
    elif received := connection.recv(_CHUNK_BYTES):
        exchange.received += received
    else:
        selector.unregister(connection)
        connection.close()
        return True
    return False


def _parse_answer(received: bytearray) -> dict[str, Any]:
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"not an answer: {bytes(received[:300])!r}")
    answer: dict[str, Any] = json.loads(body)
    return answer
