"""Requests that take long to parse or to tokenise: /healthz answers, and memory stays bounded.

The goal is an answer of /healthz within 250 ms. A shared machine cannot promise that, so the tests
allow `_HEALTH_S`, and print what they measured. Before requests had threads of their own, these
loads kept /healthz waiting for 12 s and more.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import FaultyServer, Helpers, Rollout
    from tests.conftest import TestedServer

pytestmark = pytest.mark.alone

_PROBE = Path(__file__).parent / "health_probe.py"
_HEALTH_S = 10.0
_MEGABYTE = 1 << 20
_Address = tuple[str, int]


@contextmanager
def _health_is_answered(address: _Address, load: str) -> Iterator[None]:
    """Fails if /healthz kept someone waiting while the block ran."""
    command = [sys.executable, str(_PROBE), address[0], str(address[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        time.sleep(0.5)
        yield
        answer, _ = run.communicate("\n")
    assert run.returncode == 0
    longest_s, num_answers = map(float, answer.split())
    print(f"\n{load}: longest of {num_answers:.0f} answers of /healthz {longest_s * 1e3:.0f} ms")
    assert num_answers
    assert longest_s < _HEALTH_S


def _encode_head(body: bytes) -> bytes:
    return f"POST /get_reward HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()


def _send_and_leave(address: _Address, body: bytes) -> None:
    with socket.create_connection(address, 60) as client:
        client.sendall(_encode_head(body) + body)


def _send(server: TestedServer, body: bytes) -> tuple[int, Any]:
    return server.request("/get_reward", body)


def _make_body(question: str, response: str, num_rollouts: int = 1) -> bytes:
    query = [question + response] * num_rollouts
    labels = ["5"] * num_rollouts
    return json.dumps(
        {"query": query, "prompts": [question] * num_rollouts, "labels": labels}
    ).encode()


@pytest.mark.parametrize(
    ("load", "body", "statuses"),
    [
        ("60 MB of []", b'{"query":[' + b"[]," * 20_000_000 + b"[]]}", {413}),
        ("60 MB of empty strings", b'{"query":[' + b'"",' * 20_000_000 + b'""]}', {413}),
        ("60 MB of keys", b"{" + b'"a":1,' * 10_000_000 + b'"a":1}', {413}),
        ("60 MB in UTF-16", ("[" + "[]," * 10_000_000).encode("utf-16"), {400, 413}),
        ("60 MB of escapes", b'{"query":["' + b"\\u0041" * 10_000_000 + b'"]}', {400, 413}),
        ("60 MB of lone surrogates", b'{"query":["' + b"\\ud83d" * 10_000_000 + b'"]}', {400}),
        ("60 MB of backslashes", b'{"query":["' + b"\\" * 60_000_000 + b'"]}', {400, 413}),
        ("60 MB of brackets", b"[" * 60_000_000, {400, 413}),
        (
            "a label of 900 kB of [], 60 times",
            json.dumps(
                {
                    "query": ["ab"] * 60,
                    "prompts": ["a"] * 60,
                    "labels": ['{"answer": [' + "[]," * 300_000 + "[]]}"] * 60,
                }
            ).encode(),
            {400, 413},
        ),
    ],
)
def test_health_answers_while_a_hostile_body_is_parsed(
    faulty: FaultyServer, load: str, body: bytes, statuses: set[int]
) -> None:
    before_bytes = faulty.process.memory_info().rss
    with _health_is_answered(faulty.address, load):
        for _ in range(3):
            status, answer = _send(faulty.server, body)
            assert status in statuses, answer
    # Before: 1.5 GB for 60 MB of [].
    assert faulty.process.memory_info().rss - before_bytes < 6 * len(body)


def test_health_answers_while_large_requests_are_computed(faulty: FaultyServer) -> None:
    body = _make_body("Q: 2+3?\nA:", " It is 5. " + "So 2 + 3 = 5, and so on. " * 200, 2048)
    with _health_is_answered(faulty.address, "2,048 rollouts of 5 kB"):
        assert _send(faulty.server, body)[0] == 200


def test_who_has_gone_is_not_parsed(faulty: FaultyServer, chaos: Helpers) -> None:
    """40 clients send a million characters and leave."""
    body = _make_body("Q: 2+3?\nA:", "abc def 12, " * 83_000)
    with _health_is_answered(faulty.address, "40 million characters of clients that left"):
        cpu_s = _cpu_s(faulty.process)
        assert _send(faulty.server, body)[0] == 200
        one_s = _cpu_s(faulty.process) - cpu_s
        for _ in range(40):
            _send_and_leave(faulty.address, body)
        chaos.wait_until(lambda: faulty.health["in_flight"] == 0, within_s=120)
        time.sleep(1)
        cpu_s = _cpu_s(faulty.process) - cpu_s
    # Computing them all would take 41 times as long.
    assert cpu_s < 20 * one_s


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_long_prompts_do_not_stay_in_memory(
    start_server: Callable[..., TestedServer],
) -> None:
    """90 different prompts of 900,000 characters, one after the other."""
    # Freed texts go back to the system: kept as fragments, they took up to 190 MB.
    no_fragments = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    server = start_server("--max-context-tokens", "256", environ=no_fragments)
    server.wait_until_ready()
    process = psutil.Process(server.process.pid)
    sizes = []
    for number in range(90):
        body = _make_body(f"{number} " + "abc def 12, " * 75_000, " 5")
        assert _send(server, body)[0] == 200
        sizes.append(process.memory_info().rss / _MEGABYTE)
    print(f"\nprompts of 900 kB: {sizes[0]:.0f} MB after the first, {sizes[-1]:.0f} MB after 90")
    # Groups that were answered are kept, up to 64 million characters. Before: 4 MB more with each.
    assert sizes[-1] - sizes[9] < 150
    assert server.stop() == 0


def test_large_bodies_share_a_bounded_memory(faulty: FaultyServer) -> None:
    """30 clients send almost 60 MB each and wait. A trainer's request is answered."""
    body = b" " * 59_000_000
    before_bytes = faulty.process.memory_info().rss
    clients = [socket.create_connection(faulty.address, 60) for _ in range(30)]
    try:
        with _health_is_answered(faulty.address, "30 bodies of 60 MB held"):
            for client in clients:
                client.settimeout(30)
                client.sendall(_encode_head(body + b" "))
                try:
                    client.sendall(body)
                except OSError:
                    continue  # refused
            assert _send(faulty.server, _make_body("Q: 2+3?\nA:", " 5"))[0] == 200
        # Four times --max-body-bytes, and room for the allocator.
        assert faulty.process.memory_info().rss - before_bytes < 400 * _MEGABYTE
    finally:
        for client in clients:
            client.close()


def test_sigterm_ends_the_server_under_a_flood(
    start_faulty: Callable[..., FaultyServer], rollouts: list[Rollout], chaos: Helpers
) -> None:
    """Long texts keep coming. Requests that were accepted before the signal are answered."""
    server = start_faulty("--request-timeout", "20")
    long = _make_body("Q: 2+3?\nA:", "abc def 12, " * 83_000)

    async def flood() -> list[Any]:
        async def client() -> None:
            for _ in range(50):
                try:
                    _, writer = await asyncio.open_connection(*server.address)
                    writer.write(_encode_head(long) + long)
                    await writer.drain()
                    await asyncio.sleep(0.1)
                    writer.close()
                except OSError:
                    return

        floods = [asyncio.create_task(client()) for _ in range(8)]
        await asyncio.sleep(3)
        answers = [asyncio.create_task(chaos.post(server.address, r.payload)) for r in rollouts]
        await asyncio.sleep(2)
        server.process.send_signal(signal.SIGTERM)
        answered = await asyncio.gather(*answers)
        for task in floods:
            task.cancel()
        return answered

    answers = chaos.run(flood(), timeout_s=120)
    started = time.monotonic()
    assert server.process.wait(60) == 0, server.log_text[-3000:]
    print(
        f"\nSIGTERM under a flood: ended {time.monotonic() - started:.1f} s after the last answer"
    )
    chaos.assert_rewarded(list(zip(rollouts, answers, strict=True)))
