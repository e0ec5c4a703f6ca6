"""Clients that leave, hold idle connections, send too slowly or too much, or do not read."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Address, FaultyServer, Helpers, Rollout
    from tests.conftest import TestedServer

READ_TIMEOUT_S = 6.0  # of the shared server; its write timeout is the same
SOON_S = 30.0  # generous, and far below what a server takes that one client holds up
HEAD = b"POST /get_reward HTTP/1.1\r\nHost: here\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class _HealthProbe:
    """Requests the health pages in a thread, and measures how long each answer takes."""

    def __init__(self, server: TestedServer) -> None:
        self.seconds: list[float] = []
        self._is_over = threading.Event()
        self._server = server
        self._thread = threading.Thread(target=self._send_requests, daemon=True)

    def _send_requests(self) -> None:
        while not self._is_over.wait(0.1):
            for page in ("/healthz", "/readyz"):
                started = time.monotonic()
                self._server.request(page)
                self.seconds.append(time.monotonic() - started)

    def __enter__(self) -> _HealthProbe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)
        assert self.seconds, "no page was answered"


@contextmanager
def _attack(
    address: Address, start: bytes, unit: bytes, pause_s: float = 0.0
) -> Iterator[list[int]]:
    """Sends `start` and then `unit` again and again, from a thread. Yields a count of the bytes."""
    sent = [0]
    connection = socket.create_connection(address, timeout=5)

    def send() -> None:
        with suppress(OSError):
            connection.sendall(start)
            while True:
                sent[0] += connection.send(unit)
                time.sleep(pause_s)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield sent
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("where", ["head", "body", "waiting"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_500_clients_that_disconnect(
    faulty: FaultyServer, rollouts: list[Rollout], chaos: Helpers, where: str, how: str
) -> None:
    faulty.tell(step_s=0.2)
    before = faulty.health
    descriptors = faulty.process.num_fds()
    whole = chaos.encode_request(rollouts[0].payload)
    part = {"head": whole[:40], "body": whole[:-20], "waiting": whole}[where]
    load = chaos.Load(faulty, rollouts, 16)
    leaving = []
    for _ in range(500):
        connection = socket.create_connection(faulty.address, timeout=10)
        connection.sendall(part)
        leaving.append(connection)
    if where == "waiting":
        chaos.wait_until(lambda: faulty.health["in_flight"] > 100)
    for connection in leaving:
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()
    answers = load.stop()
    chaos.assert_rewarded(answers)
    chaos.wait_until(lambda: faulty.health["in_flight"] == 0)
    chaos.wait_until(lambda: faulty.process.num_fds() <= descriptors + 8)
    after = faulty.health
    scored = after["rollouts"] - before["rollouts"]
    abandoned = after["abandoned"] - before["abandoned"]
    print(f"500 left in {where} by {how}: {abandoned} dropped, {len(answers)} others right")
    assert scored <= len(answers) + 500
    if where == "waiting":
        assert abandoned > 100
        assert abandoned + scored <= len(answers) + 500
    else:
        assert scored == len(answers)
    assert "Traceback" not in faulty.log_text


def test_2000_connections_at_once(
    faulty: FaultyServer, rollouts: list[Rollout], chaos: Helpers
) -> None:
    """1,000 idle connections, and 1,000 with a rollout each."""
    idle = [socket.create_connection(faulty.address, timeout=10) for _ in range(1000)]
    many = (rollouts * (1000 // len(rollouts) + 1))[:1000]
    faulty.tell(step_s=0.05)
    started = time.monotonic()
    with _HealthProbe(faulty.server) as health:
        answers = faulty.post_all(many)
    elapsed_s = time.monotonic() - started
    print(
        f"1,000 rollouts beside 1,000 idle: {elapsed_s:.1f} s; health {max(health.seconds):.2f} s"
    )
    chaos.assert_rewarded(list(zip(many, answers, strict=True)))
    assert max(health.seconds) < SOON_S
    # Idle connections are closed.
    for connection in idle:
        connection.settimeout(READ_TIMEOUT_S + SOON_S)
        assert connection.recv(1) == b""
        connection.close()


@pytest.mark.parametrize(
    ("start", "unit"),
    [
        (b"", b"P"),
        (HEAD, b"a"),
        (HEAD, b"a: b\r\n"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b"a"),
        (CHUNKED, b"1\r\n[\r\n"),
        (CHUNKED + b"0\r\n", b"a: b\r\n"),
    ],
    ids=["first line", "header", "headers", "body", "chunks", "trailers"],
)
def test_clients_that_send_too_slowly_are_ended_and_others_are_not_delayed(
    faulty: FaultyServer, rollouts: list[Rollout], chaos: Helpers, start: bytes, unit: bytes
) -> None:
    """100 connections that each send a few bytes ten times a second."""

    async def drip() -> tuple[float, bytes]:
        started = time.monotonic()
        reader, writer = await asyncio.open_connection(*faulty.address)
        writer.write(start)
        received = asyncio.ensure_future(reader.read())
        while not received.done():
            assert time.monotonic() - started < READ_TIMEOUT_S + SOON_S, (
                "the server did not end the connection"
            )
            writer.write(unit)
            await asyncio.sleep(0.1)
        writer.close()
        with suppress(OSError):
            return time.monotonic() - started, await received
        return time.monotonic() - started, b""

    async def drip_all() -> list[tuple[float, bytes]]:
        return await asyncio.gather(*(drip() for _ in range(100)))

    load = chaos.Load(faulty, rollouts, 8)
    dripping = chaos.run(drip_all())
    answers = load.stop()
    chaos.assert_rewarded(answers)
    slowest_s = max(answer.elapsed_s for _, answer in answers)
    print(f"ended after {max(s for s, _ in dripping):.1f} s; others {slowest_s:.2f} s at most")
    assert slowest_s < SOON_S  # one after the other, the connections that drip take 600 s
    answered = {received[:12] for _, received in dripping}
    expected = {b"HTTP/1.1 408"} if b"\r\n\r\n" in start else {b"", b"HTTP/1.1 400"}
    assert answered <= expected, answered


@pytest.mark.parametrize(
    ("start", "unit"),
    [
        (b"", b"a" * 10_000),
        (HEAD, b"a: b\r\n" * 2_000),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", b"a" * 100_000),
        (HEAD + b"Content-Length: 250000000\r\n\r\n", b"[" * 100_000),
        (CHUNKED, b"1\r\n[\r\n" * 2_000),
        (CHUNKED + b"0\r\n", b"a: b\r\n" * 2_000),
        (b"POST /nowhere HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"a" * 100_000),
    ],
    ids=["first line", "headers", "too large", "large", "chunks", "trailers", "unread"],
)
def test_a_client_that_sends_without_pause_does_not_block_others(
    faulty: FaultyServer, rollouts: list[Rollout], chaos: Helpers, start: bytes, unit: bytes
) -> None:
    """Sent as fast as possible, so that there is always more to read."""
    with _attack(faulty.address, start, unit) as sent, _HealthProbe(faulty.server) as health:
        time.sleep(0.3)
        answers = faulty.post_all(rollouts[:16])
    print(f"{sent[0] / 1e6:.0f} MB; health within {max(health.seconds):.2f} s")
    chaos.assert_rewarded(list(zip(rollouts[:16], answers, strict=True)))
    assert max(health.seconds) < SOON_S


def test_a_client_that_reads_no_answer_is_ended(faulty: FaultyServer, chaos: Helpers) -> None:
    """It requests page after page and reads none."""
    descriptors = faulty.process.num_fds()
    page = b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n"
    with _attack(faulty.address, b"", page * 100):
        chaos.wait_until(lambda: faulty.process.num_fds() > descriptors, within_s=SOON_S)
        ended_s = chaos.wait_until(lambda: faulty.process.num_fds() <= descriptors, within_s=SOON_S)
    print(f"ended after {ended_s:.1f} s")


def test_clients_that_send_many_requests_at_once_do_not_block_others(
    start_faulty: Callable[..., FaultyServer],
) -> None:
    """Twenty connections with 200 requests each: between two of them, others get a turn."""
    server = start_faulty()
    page = b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n"
    with ExitStack() as attacks:
        for _ in range(20):
            attack = attacks.enter_context(socket.create_connection(server.address, timeout=30))
            attack.sendall(page * 200)
        started = time.monotonic()
        assert server.health["ready"]
        print(f"health within {time.monotonic() - started:.2f} s")
        _, metrics = server.server.request("/metrics")
        served = re.findall(r"^reward_server_requests_total\S* (\d+)", metrics, re.MULTILINE)
        assert sum(map(int, served)) < 3000
    assert server.stop() == 0
