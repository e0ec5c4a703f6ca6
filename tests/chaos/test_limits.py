"""Requests that are too large, too many, too deep or not HTTP, some refused during sending."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Answer, FaultyServer, Helpers, Rollout

MAX_BODY_BYTES = 1_000_000
HEAD = "POST /get_reward HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture(scope="module")
def limited(
    start_faulty: Callable[..., FaultyServer], rollouts: list[Rollout], chaos: Helpers
) -> Iterator[FaultyServer]:
    limits = ("--max-body-bytes", str(MAX_BODY_BYTES), "--max-samples-per-request", "8")
    server = start_faulty(*limits, "--max-text-chars", "50000")
    yield server
    chaos.assert_rewarded(list(zip(rollouts, server.post_all(rollouts), strict=True)))
    assert server.health["in_flight"] == 0
    assert server.stop() == 0
    assert "Traceback" not in server.log_text


def _assert_refused(answer: Answer, status: int, kind: str | None = None) -> None:
    assert answer.status == status, answer
    assert set(answer.body["error"]) == {"type", "message", "field"}
    assert len(answer.body["error"]["message"]) < 1000
    if kind:
        assert answer.body["error"]["type"] == kind


@pytest.mark.parametrize("num_bytes", [MAX_BODY_BYTES + 1, 200_000_000])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("reads", ["after", "during"])
def test_a_body_that_is_too_large(
    limited: FaultyServer, chaos: Helpers, num_bytes: int, chunked: bool, reads: str
) -> None:
    """One client sends everything before it reads, the other reads while it sends."""
    started = time.monotonic()
    received = b""
    with socket.create_connection(limited.address, timeout=10) as connection:
        if chunked:
            connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        else:
            connection.sendall(f"{HEAD}Content-Length: {num_bytes}\r\n\r\n".encode())
        left = num_bytes
        with suppress(BrokenPipeError, ConnectionResetError):
            while left > 0:
                data = b"a" * min(left, 100_000)
                left -= len(data)
                connection.sendall(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
                if reads == "during":
                    connection.setblocking(False)
                    with suppress(BlockingIOError):
                        received += connection.recv(1 << 16)
                    connection.settimeout(10)
                    if received:
                        break
            if chunked and not left:
                connection.sendall(b"0\r\n\r\n")
        if reads == "after" and left:
            pytest.fail(
                f"closed with {left} bytes left to send, before the client could read the answer"
            )
        while data := connection.recv(1 << 16):
            received += data
    _assert_refused(chaos.parse_answer(received), 413, "too_large")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("where", ["query", "prompts", "labels", "json label", "choices"])
def test_a_text_that_is_too_long(limited: FaultyServer, where: str) -> None:
    long = "x" * 50_001
    payload: dict[str, list[Any]] = {"query": ["Q: 5"], "prompts": ["Q:"], "labels": ["5"]}
    if where == "json label":
        payload["labels"] = [json.dumps({"answer": long})]
    elif where == "choices":
        payload["labels"] = [{"answer": "A", "choices": ["a", long]}]
    else:
        payload[where] = [long]
    answer = limited.post(payload)
    _assert_refused(answer, 413, "too_large")
    field = where if where in payload else "labels"
    assert answer.body["error"]["field"] == f"{field}[0]"


def test_too_many_rollouts(limited: FaultyServer) -> None:
    payload = {"query": ["a"] * 9, "prompts": ["a"] * 9, "labels": ["5"] * 9}
    _assert_refused(limited.post(payload), 413, "too_large")


def test_a_request_exactly_at_the_limits_is_answered(limited: FaultyServer) -> None:
    prompt, response = "Q: 2+3?", " 5"
    query = prompt + " " * (50_000 - len(prompt + response)) + response
    payload = {"query": [query] * 8, "prompts": [prompt] * 8, "labels": ["5"] * 8}
    body = json.dumps(payload).encode().ljust(MAX_BODY_BYTES)
    assert len(body) == MAX_BODY_BYTES
    answer = limited.post(body)
    assert (answer.status, answer.body["scores"]) == (200, [1.0] * 8)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"query": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"query": [1' + b"0" * 900_000 + b'], "prompts": ["a"], "labels": ["5"]}',
        b"1" * 900_000,
        b"-" * 900_000,
        b'"' + b"\\u0000" * 100_000,
        b'{"query": ["a"], "prompts": ["a"], "labels": [1e999999]}',
        b'{"query": ["a"], "prompts": ["a"], "labels": [NaN]}',
        b"\x00" * 900_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_deep_and_huge_json(limited: FaultyServer, body: bytes) -> None:
    answer = limited.post(body)
    has_many_values = sum(map(body.count, (b"[", b"{", b","))) > 1000
    _assert_refused(answer, *((413, "too_large") if has_many_values else (400, "invalid_request")))
    plain = limited.post(b'"' + b"x" * len(body) + b'"')
    _assert_refused(plain, 400, "invalid_request")
    ratio = answer.elapsed_s / plain.elapsed_s
    print(f"{answer.elapsed_s:.3f} s, {ratio:.1f} times a plain text's")
    assert ratio < 1000  # about 1; quadratic parsing would be thousands


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"-5\r\nabc\r\n",
        b"3\r\nabcdef\r\n0\r\n\r\n",
        b"ffffffffffffffffffff\r\n",
        b"3;" + b"x" * 20_000 + b"\r\nabc\r\n0\r\n\r\n",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_malformed_chunks(limited: FaultyServer, chaos: Helpers, body: bytes) -> None:
    with socket.create_connection(limited.address, timeout=10) as connection:
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + body)
        received = b""
        while data := connection.recv(1 << 16):
            received += data
    _assert_refused(chaos.parse_answer(received), 400)


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"POST /get_reward HTTP/9.9\r\n\r\n",
        b"POST /get_reward HTTP/1.x\r\n\r\n",
        HEAD.encode() + b"Content-Length: -5\r\n\r\n",
        HEAD.encode() + b"Content-Length: 5,5\r\n\r\n",
        HEAD.encode() + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD.encode() + b"no colon\r\n\r\n",
        HEAD.encode() + b": nothing\r\n\r\n",
        HEAD.encode() + b"a: b\r\n" * 500 + b"\r\n",
        HEAD.encode() + b"a: " + b"b" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=lambda head: repr(head[:24]) + repr(head[-12:]),
)
def test_malformed_heads(limited: FaultyServer, chaos: Helpers, head: bytes) -> None:
    received = b""
    with socket.create_connection(limited.address, timeout=30) as connection:
        connection.sendall(head)
        while data := connection.recv(1 << 16):
            received += data
    answer = chaos.parse_answer(received)
    assert answer.status in (400, 414), answer
    _assert_refused(answer, answer.status)
