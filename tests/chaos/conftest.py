"""Servers that fail when told to, load on them, and the rewards that are right."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

_ENTRY = Path(__file__).parent / "faulty_server.py"
NUM_ROLLOUTS = 64


@dataclass(frozen=True)
class Rollout:
    """A request of one rollout, and what is right for it."""

    payload: dict[str, list[str]]
    score: float
    reward: float


class Answer(NamedTuple):
    """What came back; a status of 0 where nothing did, and why as its body."""

    status: int
    body: Any
    elapsed_s: float


class FaultyServer:
    """A live server over the stand-in scorer, and what a test does to it."""

    def __init__(self, server: Any, control: Path) -> None:
        self.server = server
        self.control = control
        self.address = (urlsplit(server.url).hostname, urlsplit(server.url).port)
        self.process: psutil.Process = psutil.Process(server.process.pid)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.server, name)

    def tell(self, **orders: Any) -> None:
        """Orders to the scorer; none: work well."""
        _write(self.control, orders)

    @property
    def graders(self) -> list[psutil.Process]:
        """The grader processes: children of the fork server, which is a child of the server."""
        return [
            child
            for child in self.process.children(recursive=True)
            if child.ppid() != self.process.pid and child.status() != psutil.STATUS_ZOMBIE
        ]

    @property
    def health(self) -> dict[str, Any]:
        return self.server.request("/healthz")[1]

    @property
    def log_text(self) -> str:
        return self.server.log.read_text()

    def post(self, payload: Any, **options: Any) -> Answer:
        return asyncio.run(post(self.address, payload, **options))

    def post_all(self, rollouts: Sequence[Rollout], **options: Any) -> list[Answer]:
        """Each in a request and on a connection of its own, all at once."""

        async def gather() -> list[Answer]:
            return await asyncio.gather(
                *(post(self.address, rollout.payload, **options) for rollout in rollouts)
            )

        return asyncio.run(gather())


def _write(control: Path, orders: Any) -> None:
    new = control.with_suffix(".new")
    new.write_text(json.dumps(orders))
    os.replace(new, control)


async def post(
    address: Any, payload: Any, *, timeout_s: float = 60.0, headers: str = "", path: str = ""
) -> Answer:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    head = (
        f"POST {path or '/get_reward'} HTTP/1.1\r\nHost: here\r\n{headers}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(*address, limit=1 << 26)
            try:
                writer.write(head.encode() + body)
                received = await reader.read()
            finally:
                writer.close()
        return parsed(received, time.monotonic() - started)
    except (OSError, TimeoutError, ValueError) as error:
        return Answer(0, repr(error), time.monotonic() - started)


def parsed(received: bytes, elapsed_s: float = 0.0) -> Answer:
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return Answer(0, received, elapsed_s)
    return Answer(int(head.split()[1]), json.loads(body), elapsed_s)


class Load:
    """So many clients at once, each sending one rollout after the other until stopped."""

    def __init__(self, server: FaultyServer, rollouts: Sequence[Rollout], num: int) -> None:
        self.answers: list[tuple[Rollout, Answer]] = []
        self._is_over = False
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._all(server.address, rollouts, num)), daemon=True
        )
        self._thread.start()

    async def _all(self, address: Any, rollouts: Sequence[Rollout], num: int) -> None:
        async def one(seed: int) -> None:
            choices = random.Random(seed)
            while not self._is_over:
                rollout = choices.choice(rollouts)
                self.answers.append((rollout, await post(address, rollout.payload)))

        await asyncio.gather(*(one(seed) for seed in range(num)))

    def stop(self) -> list[tuple[Rollout, Answer]]:
        self._is_over = True
        self._thread.join(90)
        assert not self._thread.is_alive(), "requests are still without an answer"
        return self.answers


def assert_right(answers: Sequence[tuple[Rollout, Answer]]) -> None:
    """Every one is answered, with its own right reward."""
    for rollout, answer in answers:
        assert answer.status == 200, answer
        assert answer.body["scores"] == [rollout.score]
        assert answer.body["rewards"] == pytest.approx([rollout.reward], abs=1e-6)


@pytest.fixture(scope="session")
def chaos() -> Any:
    """The helpers of this file, which is not a module that tests could import."""

    class Helpers:
        post = staticmethod(post)
        parsed = staticmethod(parsed)
        assert_right = staticmethod(assert_right)
        load = Load
        answer = Answer

        @staticmethod
        def run(coroutine: Coroutine[Any, Any, Any], timeout_s: float = 60.0) -> Any:
            return asyncio.run(asyncio.wait_for(coroutine, timeout_s))

        @staticmethod
        def wait_until(condition: Callable[[], Any], within_s: float = 20.0) -> float:
            started = time.monotonic()
            while not condition():
                assert time.monotonic() - started < within_s, "waited in vain"
                time.sleep(0.02)
            return time.monotonic() - started

    return Helpers


@pytest.fixture(scope="session")
def start_faulty(
    start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., FaultyServer]:
    """Starts a server, ready: `start_faulty("--request-timeout", "2", READ_TIMEOUT_S="2")`."""

    def start(*arguments: str, is_ready: bool = True, **environ: str) -> FaultyServer:
        control = tmp_path_factory.mktemp("control") / "orders.json"
        _write(control, {})
        server = start_server(*arguments, program=(str(_ENTRY), str(control)), environ=environ)
        if is_ready:
            server.wait_until_ready()
        return FaultyServer(server, control)

    return start


@pytest.fixture(scope="session")
def shared_faulty(start_faulty: Callable[..., FaultyServer]) -> FaultyServer:
    """For tests that leave nothing behind."""
    return start_faulty(READ_TIMEOUT_S="3", WRITE_TIMEOUT_S="3")


@pytest.fixture
def faulty(shared_faulty: FaultyServer, rollouts: list[Rollout]) -> Iterator[FaultyServer]:
    """The shared server; after each test it is idle, gives right rewards, and nothing was thrown
    where nobody catches it."""
    shared_faulty.tell()
    read = len(shared_faulty.log_text)
    yield shared_faulty
    shared_faulty.tell()
    answers = shared_faulty.post_all(rollouts)
    assert_right(list(zip(rollouts, answers, strict=True)))
    health = shared_faulty.health
    assert (health["ready"], health["in_flight"], health["queued_rollouts"]) == (True, 0, 0)
    assert "greenlet" not in shared_faulty.log_text[read:].lower()


@pytest.fixture(scope="session")
def rollouts(
    start_faulty: Callable[..., FaultyServer], shared_faulty: FaultyServer, bundled_tokenizer: Any
) -> list[Rollout]:
    """Right and wrong ones by turns. Their scores are known as they are made; their rewards are
    what a server gives one after the other, before anything is done to it."""
    made = []
    for index, problem in enumerate(islice(generate(seed=12, held_out=True), NUM_ROLLOUTS)):
        prompt = render_prompt(bundled_tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        response = problem.wrong_end if index % 2 else problem.concise
        payload = {
            "query": [prompt + response + "<|im_end|>"],
            "prompts": [prompt],
            "labels": [str(problem.answer)],
        }
        answer = shared_faulty.post(payload)
        assert answer.status == 200, answer
        made.append(Rollout(payload, float(index % 2 == 0), answer.body["rewards"][0]))
        assert answer.body["scores"] == [made[-1].score]
    assert len({rollout.reward for rollout in made}) == NUM_ROLLOUTS
    return made


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    """2,000 connections need more than the usual 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
