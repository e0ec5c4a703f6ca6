"""10,000 requests to a server with the bundled model: its memory does not grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import FaultyServer, Helpers, Rollout
    from tests.conftest import TestedServer

pytestmark = pytest.mark.alone

NUM_REQUESTS = 10_000
NUM_FIRST = 2_000
NUM_AT_ONCE = 32
_SAMPLE_EVERY = 500
_TIMEOUT_S = 1500.0


class _Usage:
    """Memory, processes and file descriptors of a server."""

    def __init__(self, server: psutil.Process) -> None:
        children = server.children(recursive=True)
        self.server_bytes: int = server.memory_info().rss
        self.graders_bytes: int = sum(child.memory_info().rss for child in children)
        self.num_processes = 1 + len(children)
        self.num_descriptors = server.num_fds()

    @property
    def num_bytes(self) -> int:
        return self.server_bytes + self.graders_bytes


def test_memory_is_flat(
    start_server: Callable[..., TestedServer],
    rollouts: list[Rollout],
    chaos: Helpers,
    faulty: FaultyServer,
) -> None:
    # What the dashboard keeps is full before the first sample.
    server = start_server("--grader-workers", "2", "--dashboard-rollouts", "1000")
    server.wait_until_ready()
    process = psutil.Process(server.process.pid)
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    samples: list[_Usage] = []

    async def send() -> None:
        numbers = iter(range(NUM_REQUESTS))

        async def client() -> None:
            for number in numbers:
                rollout = rollouts[number % len(rollouts)]
                answer = await chaos.post(address, rollout.payload)
                assert (answer.status, answer.body["scores"]) == (200, [rollout.score])

        async def send_and_measure(count: int) -> None:
            nonlocal numbers
            numbers = iter(range(count))
            await asyncio.gather(*(client() for _ in range(NUM_AT_ONCE)))
            await asyncio.sleep(0.2)  # the last connections are being closed
            samples.append(_Usage(process))

        for _ in range(NUM_REQUESTS // _SAMPLE_EVERY):
            await send_and_measure(_SAMPLE_EVERY)

    started = time.monotonic()
    chaos.run(send(), timeout_s=_TIMEOUT_S)
    print(f"{NUM_REQUESTS} requests in {time.monotonic() - started:.0f} s")
    for number, one in enumerate(samples, 1):
        print(
            f"{number * _SAMPLE_EVERY:6d} requests: server {one.server_bytes / 1e6:.1f} MB, "
            f"graders {one.graders_bytes / 1e6:.1f} MB, {one.num_processes} processes, "
            f"{one.num_descriptors} descriptors"
        )
    assert server.request("/healthz")[1]["rollouts"] == NUM_REQUESTS
    first = samples[NUM_FIRST // _SAMPLE_EVERY - 1]
    later = samples[NUM_FIRST // _SAMPLE_EVERY :]
    growth = max(one.num_bytes for one in later) / first.num_bytes - 1
    print(f"growth after the first {NUM_FIRST}: {growth:.1%}")
    assert growth <= 0.05
    assert max(one.num_processes for one in later) <= first.num_processes
    assert max(one.num_descriptors for one in later) <= first.num_descriptors
    assert server.stop() == 0
