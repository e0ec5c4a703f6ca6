"""Floods of connections on a server that may open few files: health pages are answered, graders and
checkpoints get the descriptors they need, and rewards go on."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import FaultyServer, Helpers, Rollout

HEAD = b"POST /get_reward HTTP/1.1\r\nHost: here\r\n"
KEY = "a-key-of-27-characters-0123"
LINE = "too many open connections"
# A server that is cut off answers nothing until the flood ends.
SOON_S = 30.0


@contextmanager
def _flood(server: FaultyServer, num: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Opens connections, sends the same on each, and holds them. The server may end them."""
    with ExitStack() as held:
        opened = []
        for _ in range(num):
            connection = held.enter_context(socket.create_connection(server.address, timeout=30))
            with suppress(OSError):
                connection.sendall(data)
            opened.append(connection)
        yield opened


def _assert_is_quiet(server: FaultyServer) -> None:
    log = server.log_text
    assert "Traceback" not in log
    assert "greenlet" not in log.lower()
    age_s = time.time() - server.process.create_time()
    assert 1 <= log.count(LINE) <= 1 + age_s / 60
    # The listener's own lines are about clients that left in the middle of a head.
    lines = [line for line in log.splitlines() if "the listener refused" not in line]
    assert len(lines) < 60, log


@pytest.fixture(scope="module", params=[256, 64])
def scarce(
    start_faulty: Callable[..., FaultyServer], request: pytest.FixtureRequest
) -> Iterator[FaultyServer]:
    limit = str(request.param)
    server = start_faulty("--grader-workers", "2", NUM_DESCRIPTORS=limit)
    yield server
    assert server.stop() == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P",
        HEAD,
        HEAD + b"Content-Length: 1000\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
    ids=["idle", "first line", "head", "body", "chunks"],
)
def test_health_is_answered_while_a_flood_holds_its_connections(
    scarce: FaultyServer, rollouts: list[Rollout], chaos: Helpers, data: bytes
) -> None:
    scarce.tell()
    with _flood(scarce, 400, data):
        for page in ("/healthz", "/readyz", "/metrics"):
            started = time.monotonic()
            assert scarce.server.request(page)[0] == 200
            assert time.monotonic() - started < SOON_S
        # Rewards go on, too, and graders that die get descriptors for their successors.
        for grader in scarce.graders:
            grader.kill()
        for rollout in rollouts[:8]:
            chaos.assert_rewarded([(rollout, scarce.post(rollout.payload))])
    chaos.assert_rewarded([(one, scarce.post(one.payload)) for one in rollouts[:8]])
    chaos.wait_until(lambda: scarce.health["in_flight"] == 0)
    _assert_is_quiet(scarce)


def test_health_is_answered_while_requests_take_all_connections(
    scarce: FaultyServer, rollouts: list[Rollout], chaos: Helpers
) -> None:
    """None of them may be ended: they are being computed."""
    scarce.tell(step_s=5.0)
    with ThreadPoolExecutor(1) as background:
        many = (rollouts * 5)[:300]
        waiting = background.submit(scarce.post_all, many)
        chaos.wait_until(lambda: scarce.health["in_flight"] >= 8)
        for _ in range(5):
            assert scarce.server.request("/healthz")[0] == 200
        scarce.tell()
        answers = list(zip(many, waiting.result(), strict=True))
    rewarded = [pair for pair in answers if pair[1].status == 200]
    refused = [answer for _, answer in answers if answer.status != 200]
    assert {answer.status for answer in refused} <= {503, 0}, refused[:3]
    chaos.assert_rewarded(rewarded)
    print(f"{len(rewarded)} rewarded, {len(refused)} refused")
    assert len(rewarded) >= 8
    chaos.assert_rewarded([(one, scarce.post(one.payload)) for one in rollouts[:8]])
    _assert_is_quiet(scarce)


def test_a_starved_server_uses_no_processor(
    start_faulty: Callable[..., FaultyServer], chaos: Helpers
) -> None:
    server = start_faulty("--grader-workers", "2", NUM_DESCRIPTORS="64")
    with _flood(server, 400, b""):
        assert server.health["ready"]
        before = server.process.cpu_times()
        time.sleep(3)
        after = server.process.cpu_times()
    assert after.user + after.system - before.user - before.system < 1.5  # a busy loop: 3
    assert server.stop() == 0


def test_health_is_answered_soon_after_a_burst_of_connections(
    start_faulty: Callable[..., FaultyServer],
) -> None:
    """The server must accept all of them before the health page: they came first."""
    server = start_faulty("--grader-workers", "2", NUM_DESCRIPTORS="1024")
    started = time.monotonic()
    with _flood(server, 4000, HEAD):
        assert server.server.request("/healthz")[0] == 200
        took_s = time.monotonic() - started
    print(f"/healthz {took_s:.1f} s after the start of a burst of 4,000 connections")
    assert took_s < SOON_S
    _assert_is_quiet(server)
    assert server.stop() == 0


def test_a_checkpoint_is_loaded_during_a_flood(
    start_faulty: Callable[..., FaultyServer], checkpoints: dict[int, Path]
) -> None:
    server = start_faulty("--grader-workers", "2", NUM_DESCRIPTORS="128", REWARD_SERVER_API_KEY=KEY)
    with _flood(server, 400, b""):
        answer = server.post(
            {"path": str(checkpoints[20])},
            headers=f"Authorization: Bearer {KEY}\r\n",
            path="/update_weights",
        )
        assert (answer.status, answer.body["policy_version"]) == (200, 20)
    _assert_is_quiet(server)
    assert server.stop() == 0


def test_a_usual_keep_alive_client_sees_only_that_its_idle_connection_ended(
    scarce: FaultyServer,
) -> None:
    get = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
    scarce.tell()
    with socket.create_connection(scarce.address, timeout=30) as client:
        client.sendall(get)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with _flood(scarce, 400, b""):
            while client.recv(1 << 16):  # the rest of the answer
                pass
