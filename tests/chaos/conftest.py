"""Live servers over a stand-in scorer that fails on command, load on them, and expected rewards."""

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
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import psutil
import pytest

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

if TYPE_CHECKING:
    from tests.conftest import TestedServer

_T = TypeVar("_T")
Address = tuple[str, int]

_PROGRAM = Path(__file__).parent / "faulty_server.py"
NUM_ROLLOUTS = 64
_ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Rollout:
    """A request with one rollout, and the answer it must get."""

    payload: dict[str, list[str]]
    score: float
    reward: float


class Answer(NamedTuple):
    """A server's answer. A status of 0: there was none, and the body says why."""

    status: int
    body: Any
    elapsed_s: float


class FaultyServer:
    """A live server over the stand-in scorer of `faulty_server.py`."""

    def __init__(self, server: TestedServer, control: Path) -> None:
        self.server = server
        self.url = server.url
        self.control = control
        self.address: Address = (
            urlsplit(server.url).hostname or "",
            urlsplit(server.url).port or 0,
        )
        self.process: psutil.Process = psutil.Process(server.process.pid)

    def tell(self, **orders: Any) -> None:
        """Gives the scorer orders, see `faulty_server.py`. Without any it works normally."""
        _write_orders(self.control, orders)

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
        health: dict[str, Any] = self.server.request("/healthz")[1]
        return health

    @property
    def log_text(self) -> str:
        return self.server.log.read_text()

    def stop(self) -> int:
        """Sends SIGTERM, waits, and returns the exit code."""
        return self.server.stop()

    def post(self, payload: Any, *, headers: str = "", path: str = "/get_reward") -> Answer:
        """Sends one request on a connection of its own."""
        return asyncio.run(post(self.address, payload, headers=headers, path=path))

    def post_all(self, rollouts: Sequence[Rollout]) -> list[Answer]:
        """Sends all rollouts at once, each in a request and on a connection of its own."""

        async def send_all() -> list[Answer]:
            return await asyncio.gather(*(post(self.address, one.payload) for one in rollouts))

        return asyncio.run(send_all())


def _write_orders(control: Path, orders: dict[str, Any]) -> None:
    new = control.with_suffix(".new")
    new.write_text(json.dumps(orders))
    os.replace(new, control)


def encode_request(payload: Any, *, headers: str = "", path: str = "/get_reward") -> bytes:
    """The bytes of a POST; `payload` is sent as JSON, bytes as they are."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    lines = f"POST {path} HTTP/1.1\r\nHost: here\r\n{headers}Content-Length: {len(body)}\r\n"
    return f"{lines}\r\n".encode() + body


async def post(
    address: Address, payload: Any, *, headers: str = "", path: str = "/get_reward"
) -> Answer:
    """Sends one request and reads its answer."""
    request = encode_request(payload, headers=f"{headers}Connection: close\r\n", path=path)
    started = time.monotonic()
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(*address, limit=1 << 26)
            try:
                writer.write(request)
                received = await reader.read()
            finally:
                writer.close()
        return parse_answer(received, time.monotonic() - started)
    except (OSError, TimeoutError, ValueError) as error:
        return Answer(0, repr(error), time.monotonic() - started)


def parse_answer(received: bytes, elapsed_s: float = 0.0) -> Answer:
    """The answer in the bytes of a whole connection."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return Answer(0, received, elapsed_s)
    return Answer(int(head.split()[1]), json.loads(body), elapsed_s)


class Load:
    """Clients that each send one rollout after the other, in a thread, until `stop`."""

    def __init__(self, server: FaultyServer, rollouts: Sequence[Rollout], num_clients: int) -> None:
        self._answers: list[tuple[Rollout, Answer]] = []
        self._is_stopping = False
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run_clients(server.address, rollouts, num_clients)),
            daemon=True,
        )
        self._thread.start()

    async def _run_clients(
        self, address: Address, rollouts: Sequence[Rollout], num_clients: int
    ) -> None:
        async def send_rollouts(seed: int) -> None:
            choices = random.Random(seed)
            while not self._is_stopping:
                rollout = choices.choice(rollouts)
                self._answers.append((rollout, await post(address, rollout.payload)))

        await asyncio.gather(*(send_rollouts(seed) for seed in range(num_clients)))

    def stop(self) -> list[tuple[Rollout, Answer]]:
        """Waits for the last answers; returns each rollout that was sent with its answer."""
        self._is_stopping = True
        self._thread.join(90)
        assert not self._thread.is_alive(), "some requests have no answer yet"
        return self._answers


def assert_rewarded(answers: Sequence[tuple[Rollout, Answer]]) -> None:
    """Fails unless every rollout got its own expected reward."""
    for rollout, answer in answers:
        assert answer.status == 200, answer
        assert answer.body["scores"] == [rollout.score]
        assert answer.body["rewards"] == pytest.approx([rollout.reward], abs=1e-6)


class Helpers:
    """What the `chaos` fixture gives to tests, which cannot import from this file."""

    Load = Load
    encode_request = staticmethod(encode_request)
    post = staticmethod(post)
    parse_answer = staticmethod(parse_answer)
    assert_rewarded = staticmethod(assert_rewarded)

    @staticmethod
    def run(coroutine: Coroutine[Any, Any, _T], timeout_s: float = 60.0) -> _T:
        """Runs a coroutine to its end; fails after `timeout_s`."""
        return asyncio.run(asyncio.wait_for(coroutine, timeout_s))

    @staticmethod
    def wait_until(condition: Callable[[], object], within_s: float = 20.0) -> float:
        """Polls until a condition holds, and returns the seconds it took; fails if too long."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < within_s, "the condition did not become true"
            time.sleep(0.02)
        return time.monotonic() - started


@pytest.fixture(scope="session")
def chaos() -> Helpers:
    return Helpers()


@pytest.fixture(scope="session")
def start_faulty(
    start_server: Callable[..., TestedServer], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., FaultyServer]:
    """Starts a server and waits until it is ready.

    Takes flags and environment variables: `start_faulty("--log-format", "json", X="2")`.
    """

    def start(*arguments: str, **environ: str) -> FaultyServer:
        control = tmp_path_factory.mktemp("control") / "orders.json"
        _write_orders(control, {})
        server = start_server(*arguments, program=(str(_PROGRAM), str(control)), environ=environ)
        server.wait_until_ready()
        return FaultyServer(server, control)

    return start


@pytest.fixture(scope="session")
def shared_faulty(start_faulty: Callable[..., FaultyServer]) -> FaultyServer:
    """One server for all tests that leave it as they found it."""
    return start_faulty(READ_TIMEOUT_S="6", WRITE_TIMEOUT_S="6")


@pytest.fixture
def faulty(shared_faulty: FaultyServer, rollouts: list[Rollout]) -> Iterator[FaultyServer]:
    """The shared server. Checks after each test that it is idle, gives the expected rewards, and
    that no greenlet ended with an exception."""
    shared_faulty.tell()
    num_chars_before = len(shared_faulty.log_text)
    yield shared_faulty
    shared_faulty.tell()
    answers = shared_faulty.post_all(rollouts)
    assert_rewarded(list(zip(rollouts, answers, strict=True)))
    health = shared_faulty.health
    assert (health["ready"], health["in_flight"], health["queued_rollouts"]) == (True, 0, 0)
    assert "greenlet" not in shared_faulty.log_text[num_chars_before:].lower()


@pytest.fixture(scope="session")
def rollouts(shared_faulty: FaultyServer, bundled_tokenizer: Any) -> list[Rollout]:
    """Rollouts whose responses are correct and incorrect in turn.

    Their expected rewards are what a server that works normally gives to one after the other.
    """
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
def _raise_descriptor_limit() -> None:
    """2,000 connections need more file descriptors than the usual limit of 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
