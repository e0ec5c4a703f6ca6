"""Requests that join cohorts, in a time that only the test moves; and batchers over stand-ins."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pytest

from reward_server.pipeline import batcher as batcher_module
from reward_server.pipeline import cohorts as cohorts_module
from reward_server.pipeline import gathering as gathering_module
from reward_server.pipeline import jobs as jobs_module
from reward_server.pipeline import waiting as waiting_module
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.cohorts import Cohorts, Member, Settled
from reward_server.pipeline.jobs import Logprobs
from reward_server.pipeline.waiting import Client, Deadline, Waiting
from reward_server.pipeline.workers import ScorerLost
from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.scoring import TokenSequence
from sar.terms.base import GroupTerm, Sample
from sar.terms.composition import Composition, WeightedTerm

TIMEOUT_S = 100.0
_PATIENCE_S = 60.0
_BASE = 32


class WhoIsThere(GroupTerm):
    """One number for all of a group, which tells how often each text is in it."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        return [float(sum(_BASE ** int(one.response) for one in group))] * len(group)


def decode(reward: float) -> Counter[int]:
    """How often each text is in the group that got this reward."""
    code, found = int(reward), Counter[int]()
    for text in range(10):
        code, found[text] = divmod(code, _BASE)
    return +found


def make_member(text: int | str, prompt: str = "2+3?") -> Member:
    sample = Sample(
        prompt,
        str(text),
        Label("5", "math"),
        Verdict(Reason.CORRECT),
        Likelihood(0.5, 1.0, 7, over_context=False),
    )
    return Member(prompt, f"{prompt} {text}", sample, {})


def compose(group_size: int, term: GroupTerm | None = None) -> Composition:
    return Composition((WeightedTerm("who", term or WhoIsThere()),), group_size)


class Sent:
    """A request that joins, in a thread of its own."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.settled: list[Settled] | None = None
        self.error: Exception | None = None
        self.is_gone = False
        self.leaves_with_answer = False
        """The client closes its connection at the moment at which the answer is there."""
        self.thread: threading.Thread | None = None

    @property
    def is_held(self) -> bool:
        return self.settled is None and self.error is None

    @property
    def one(self) -> Settled:
        """The answer of a request with one rollout."""
        assert self.settled is not None, self.error or "no answer yet"
        (one,) = self.settled
        return one

    @property
    def group(self) -> Counter[int]:
        return decode(self.one.reward)


class _AtOnce:
    """An executor without threads, so that nothing goes on while the test looks."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def submit(self, work: Callable[..., Any], *arguments: Any) -> None:
        work(*arguments)


class World:
    """Cohorts, requests and a clock. Requests run until all of them wait or have ended."""

    TIMEOUT_S: ClassVar = TIMEOUT_S

    def __init__(self, group_size: int, term: GroupTerm | None, **options: Any) -> None:
        self.now_s = 1000.0
        self.cohorts = Cohorts(compose(group_size, term), **options)
        self._changed = threading.Condition()
        self._blocked: dict[int, tuple[Future[Any], float]] = {}
        self._running: list[Sent] = []
        self._waiting = Waiting(self._wait_for_result, lambda: None)

    def send(
        self, *members: Member, is_gone: bool = False, leaves_with_answer: bool = False
    ) -> Sent:
        """A request whose rollouts have just been scored."""
        sent = Sent(members)
        sent.is_gone = is_gone
        sent.leaves_with_answer = leaves_with_answer
        deadline = Deadline(TIMEOUT_S, self._waiting)
        sent.thread = threading.Thread(target=self._join, args=(sent, deadline), daemon=True)
        self._running.append(sent)
        sent.thread.start()
        self._let_run()
        return sent

    def send_text(self, text: int | str, **options: Any) -> Sent:
        return self.send(make_member(text), **options)

    def pass_time(self, seconds: float) -> None:
        """Moves the clock; requests wake at their times."""
        end_s = self.now_s + seconds
        while self._blocked and (next_s := min(s for _, s in self._blocked.values())) <= end_s:
            self._set_time(max(next_s, self.now_s) + 1e-6)
        self._set_time(max(end_s, self.now_s))

    def close(self) -> None:
        self.cohorts.close()
        self._let_run()

    @property
    def num_running(self) -> int:
        return len(self._running)

    def _join(self, sent: Sent, deadline: Deadline) -> None:
        is_answered = False

        def is_gone() -> bool:
            # `join` asks once more when the answer is there.
            return sent.is_gone or (sent.leaves_with_answer and is_answered)

        def for_result(future: Future[Any], timeout_s: float) -> Any:
            nonlocal is_answered
            result = self._wait_for_result(future, timeout_s)
            is_answered = True
            return result

        deadline._waiting = Waiting(for_result, lambda: None)
        try:
            sent.settled = self.cohorts.join(sent.members, Client(deadline, is_gone))
        except Exception as error:  # noqa: BLE001  the test looks at it
            sent.error = error

    def _wait_for_result(self, future: Future[Any], timeout_s: float) -> Any:
        until_s = self.now_s + timeout_s
        with self._changed:
            future.add_done_callback(self._notify)
            self._blocked[threading.get_ident()] = future, until_s
            self._changed.notify_all()
            while not future.done() and self.now_s < until_s:
                assert self._changed.wait(_PATIENCE_S), "the test does not go on"
            del self._blocked[threading.get_ident()]
        return future.result(timeout=0)

    def _notify(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def _set_time(self, now_s: float) -> None:
        with self._changed:
            self.now_s = now_s
            self._changed.notify_all()
        self._let_run()

    def _let_run(self) -> None:
        """Waits until every request has ended, or waits for what has not come."""
        while True:
            for sent in list(self._running):
                assert sent.thread is not None
                if not sent.is_held:
                    sent.thread.join(_PATIENCE_S)
                    self._running.remove(sent)
            with self._changed:
                is_idle = all(
                    not future.done() and self.now_s < until_s
                    for future, until_s in self._blocked.values()
                )
                if is_idle and len(self._blocked) == len(self._running):
                    return
                self._changed.wait(0.001)


class CohortHelpers:
    """What the `worlds` fixture gives to tests, which cannot import from this file."""

    TIMEOUT_S = TIMEOUT_S
    make_member = staticmethod(make_member)
    compose = staticmethod(compose)
    decode = staticmethod(decode)

    @staticmethod
    @contextmanager
    def open(group_size: int, term: GroupTerm | None = None, **options: Any) -> Iterator[World]:
        """A world whose requests all have ended, or end with it."""
        world: World

        def read_clock() -> float:
            return world.now_s

        clock = SimpleNamespace(monotonic=read_clock)
        with (
            patch.object(cohorts_module, "time", clock),
            patch.object(gathering_module, "time", clock),
            patch.object(waiting_module, "time", clock),
            patch.object(cohorts_module, "ThreadPoolExecutor", _AtOnce),
        ):
            world = World(group_size, term, **options)
            yield world
            world.close()
            assert world.num_running == 0, "a request has no answer"
            state = world.cohorts.state
            assert (state.num_open, state.num_held) == (0, 0)


@pytest.fixture(scope="session")
def worlds() -> CohortHelpers:
    return CohortHelpers()


WAIT_S = 60.0
POISON, BAD = 666, 777


class StandIn:
    """Gives each sequence its response ids back, as floats.

    A sequence with POISON ends it. With `is_broken`, all fail; else those with BAD.
    """

    max_context_tokens = None

    def __init__(self, seconds_per_token: float = 0.0, *, hold: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.is_broken = False
        self.dies = threading.Event()
        self.started = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._hold = hold
        self._seconds_per_token = seconds_per_token
        self.is_lost = False

    @property
    def num_scored(self) -> int:
        return sum(map(len, self.batches))

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
        assert not self.is_lost, "a lost scorer is not used again"
        self.batches.append([s.response_ids[0] for s in sequences])
        self.started.release()
        if self._hold:
            assert self._go.acquire(timeout=WAIT_S)
        time.sleep(self._seconds_per_token * sum(map(len, sequences)))
        if self.dies.is_set() or any(POISON in s.response_ids for s in sequences):
            self.is_lost = True
            raise ScorerLost("its process was killed")
        if self.is_broken or any(BAD in s.response_ids for s in sequences):
            raise RuntimeError("device-side assert")
        return [np.array(s.response_ids, np.float32) for s in sequences]

    def wait_for_batch(self) -> None:
        assert self.started.acquire(timeout=WAIT_S)

    def release(self, num_batches: int = 1000) -> None:
        self._go.release(num_batches)


def sequence(value: int, num_tokens: int = 2) -> TokenSequence:
    return TokenSequence([1] * (num_tokens - 1), [value])


def values(future: Future[Logprobs]) -> list[list[float]]:
    return [array.tolist() for array in future.result(WAIT_S)]


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not become true"
        time.sleep(0.002)


@pytest.fixture
def batcher_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Batcher]]:
    """Makes a batcher over scorers, and closes it after the test. It divides also few tokens."""
    monkeypatch.setattr(batcher_module, "_RETRY_S", 0.02)
    monkeypatch.setattr(jobs_module, "_MIN_SHARE_TOKENS", 2)
    made: list[tuple[tuple[StandIn, ...], Batcher]] = []

    def make(*scorers: StandIn, max_batch_tokens: int = 1_000_000, **options: Any) -> Batcher:
        batcher = Batcher(None, max_batch_tokens, **options)
        for scorer in scorers:
            assert batcher.add_scorer(scorer)
        made.append((scorers, batcher))
        return batcher

    yield make
    for scorers, batcher in made:
        for scorer in scorers:
            scorer.release()
        assert batcher.close(WAIT_S)


def assert_all_right(futures: dict[int, Future[Logprobs]]) -> None:
    wait(futures.values(), WAIT_S)
    assert {value: values(future) for value, future in futures.items()} == {
        value: [[value]] for value in futures
    }


def submit(batcher: Batcher, wanted: Sequence[int]) -> dict[int, Future[Logprobs]]:
    return {value: batcher.submit([sequence(value)]) for value in wanted}


class BatcherHelpers:
    """What the `batchers` fixture gives to tests, which cannot import from this file."""

    StandIn = StandIn
    POISON, BAD, WAIT_S = POISON, BAD, WAIT_S
    sequence = staticmethod(sequence)
    submit = staticmethod(submit)
    values = staticmethod(values)
    wait_until = staticmethod(wait_until)
    assert_all_right = staticmethod(assert_all_right)


@pytest.fixture(scope="session")
def batchers() -> BatcherHelpers:
    return BatcherHelpers()


class LenientGraders:
    """Finds every response right."""

    num_restarts = 0

    def submit(self, response: str, label: Label) -> Future[Verdict]:
        future: Future[Verdict] = Future()
        future.set_result(Verdict(Reason.CORRECT, label.answer))
        return future


@pytest.fixture
def lenient_graders() -> LenientGraders:
    return LenientGraders()
