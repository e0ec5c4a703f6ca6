"""Sends many one-rollout requests at once, each on its own connection, as OpenRLHF does.

Uses one thread and plain sockets. The client shares the machine with the server that it measures,
and OpenRLHF's own client (aiohttp) would take about as much CPU time as the server.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Sequence
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


def encode_request(host: str, payload: dict[str, Any]) -> bytes:
    """The bytes of one `POST /get_reward`."""
    body = json.dumps(payload).encode()
    head = (
        f"POST /get_reward HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
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
    exchanges = []
    with selectors.DefaultSelector() as selector:
        start = time.perf_counter()
        for request in requests:
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex((address.hostname, address.port))
            exchange = _Exchange(connection, memoryview(request))
            exchanges.append(exchange)
            selector.register(connection, selectors.EVENT_WRITE, exchange)
        while selector.get_map():
            if time.perf_counter() - start > timeout_s:
                raise RuntimeError(f"{len(selector.get_map())} requests without an answer")
            for key, _ in selector.select(timeout=1):
                _send_or_receive(selector, key.data)
        elapsed_s = time.perf_counter() - start
    return LoadResult([_parse_answer(exchange.received) for exchange in exchanges], elapsed_s)


def _send_or_receive(selector: selectors.BaseSelector, exchange: _Exchange) -> None:
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


def _parse_answer(received: bytearray) -> dict[str, Any]:
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"not an answer: {bytes(received[:300])!r}")
    answer: dict[str, Any] = json.loads(body)
    return answer
