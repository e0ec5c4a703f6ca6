"""A pool of scorers that run in this process, without Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np
import pytest

from reward_server.pipeline.batcher import Batcher
from reward_server.scaling import models as models_module
from reward_server.scaling import pool as pool_module
from reward_server.scaling import states
from reward_server.scaling.actor import ScorerActor
from reward_server.scaling.messages import (
    AddScorer,
    Call,
    CallLost,
    Connected,
    Forget,
    Lost,
    NotConnected,
    RestartScorer,
    Returned,
    Running,
    Start,
    StopScorer,
)
from reward_server.scaling.options import ModelOptions, ScalingOptions
from reward_server.scaling.pool import ScorerPool
from reward_server.weights.remote import RemoteModel
from sar.scoring import TokenSequence

WAIT_S = 60.0
OPTIONS = ModelOptions("transformers", "cpu", "auto", 1000, 0.9, 1, False)


class InProcess:
    """What stands in for the model: its log-probabilities are the response ids times a factor."""

    needs_files = False
    factors: ClassVar[dict[str, float]] = {}
    fails: ClassVar[dict[str, Callable[[], None]]] = {}
    """Called when the model of this path is loaded."""
    hangs = threading.Semaphore(0)
    """How many of the next packs never end."""
    hang_ends = threading.Event()
    contexts: ClassVar[list[int]] = []
    """Contexts of the next scorers that load, where they are not 1024."""

    def __init__(self, path: str) -> None:
        self._factor = self.factors.get(path, 1.0)
        self._context = self.contexts.pop(0) if self.contexts else 1024

    @classmethod
    def load(cls, path: str, _: ModelOptions) -> InProcess:
        cls.fails.get(path, lambda: None)()
        return cls(path)

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "architecture": {"class": "stand-in"},
            "max_context_tokens": self._context,
            "scoring_path": ("packed", ""),
            "description": "stand-in",
        }

    def has_room_for(self, num_copies: int) -> bool:
        return num_copies < 3

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> list[Any]:
        if self.hangs.acquire(blocking=False):
            self.hang_ends.wait(WAIT_S)
        return [np.array(s.response_ids, np.float32) * self._factor for s in sequences]

    def close(self) -> None: ...


class Driver:
    """A process that talks to Ray, without Ray: the scorers are objects in this process."""

    started: ClassVar[list[Driver]] = []
    refuses: ClassVar[list[NotConnected]] = []
    """What the next of these says instead of connecting."""
    start_errors: ClassVar[list[Exception]] = []
    """Why the next of these does not start."""

    def __init__(self) -> None:
        if self.start_errors:
            raise self.start_errors.pop(0)
        self._to_front: SimpleQueue[Any] = SimpleQueue()
        self._runs: dict[int, int] = {}
        self._actors: dict[int, Any] = {}
        self._open: dict[int, Call] = {}
        self._threads = ThreadPoolExecutor(16)
        self._lock = threading.Lock()
        self.forgotten: list[int] = []
        self.started.append(self)

    def send(self, message: Any) -> None:
        match message:
            case Start():
                if self.refuses:
                    self._to_front.put(self.refuses.pop(0))
                    self._to_front.put(None)
                else:
                    self._to_front.put(Connected(0.0))
            case AddScorer():
                self._runs[message.scorer] = 0
                self.run(message.scorer)
            case StopScorer():
                self._runs.pop(message.scorer, None)
            case RestartScorer():
                self.kill(message.scorer, message.reason)
            case Call():
                self._open[message.number] = message
                self._threads.submit(self._answer, message)
            case Forget():
                self.forgotten.append(message.key)

    def run(self, scorer: int) -> None:
        self._runs[scorer] += 1
        name = f"{InProcess.__module__}:{InProcess.__qualname__}"
        self._actors[scorer] = ScorerActor(name, OPTIONS)
        self._actors[scorer]._scorer_class = _HERE
        self._to_front.put(
            Running(scorer, self._runs[scorer], "10.0.0.1", f"node-{scorer % 2}", (), 1000 + scorer)
        )

    def kill(self, scorer: int, reason: str = "killed", *, comes_back: bool = True) -> None:
        run = self._runs[scorer]
        with self._lock:
            lost = [one for one in self._open.values() if one.scorer == scorer]
            for call in lost:
                del self._open[call.number]
        for call in lost:
            self._to_front.put(CallLost(call.number, reason))
        self._to_front.put(Lost(scorer, run, reason))
        if comes_back:
            self.run(scorer)

    def receive(self) -> Any:
        if (message := self._to_front.get()) is None:
            raise EOFError
        return message

    def stop(self) -> None:
        """Also: the connection to Ray is lost."""
        self._to_front.put(None)

    def end(self) -> None: ...

    def _answer(self, call: Call) -> None:
        actor, run = self._actors[call.scorer], self._runs.get(call.scorer)
        value = getattr(actor, call.method)(*call.arguments)
        with self._lock:
            is_open = self._open.pop(call.number, None) is not None
        if is_open and run == call.run == self._runs.get(call.scorer):
            self._to_front.put(Returned(call.number, value))


_HERE = "in_process_scorers:InProcess"


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import sys
    from types import ModuleType

    module = ModuleType("in_process_scorers")
    module.InProcess = InProcess  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "in_process_scorers", module)
    monkeypatch.setattr(pool_module, "DriverProcess", Driver)
    monkeypatch.setattr(pool_module, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(models_module, "_TICK_S", 0.02)
    monkeypatch.setattr(models_module, "FIRST_RETRY_S", 0.1)
    assert states.FIRST_RETRY_S > 1
    yield
    Driver.started.clear()
    Driver.refuses.clear()
    Driver.start_errors.clear()
    InProcess.fails.clear()
    InProcess.factors.clear()
    InProcess.contexts.clear()


@pytest.fixture
def make_pool() -> Iterator[Callable[..., ScorerPool]]:
    made: list[ScorerPool] = []

    def make(num: int = 3, **options: Any) -> ScorerPool:
        made.append(ScorerPool(ScalingOptions(num, "auto", OPTIONS, **options)))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def serve(model: RemoteModel) -> Batcher:
    batcher = Batcher(None, 1000, on_close=model.unload)
    model.serve(batcher)
    return batcher


def score(batcher: Batcher, *numbers: int) -> list[float]:
    futures = [batcher.submit([TokenSequence([1], [number])]) for number in numbers]
    return [float(future.result(WAIT_S)[0][0]) for future in futures]


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not become true"
        time.sleep(0.002)


def list_states(pool: ScorerPool) -> list[str]:
    return [scorer.state for scorer in pool.describe(0)]


class PoolHelpers:
    """What the `pools` fixture gives to tests, which cannot import from this file."""

    InProcess = InProcess
    Driver = Driver
    OPTIONS = OPTIONS
    WAIT_S = WAIT_S
    serve = staticmethod(serve)
    score = staticmethod(score)
    wait_until = staticmethod(wait_until)
    list_states = staticmethod(list_states)


@pytest.fixture(scope="session")
def pools() -> PoolHelpers:
    return PoolHelpers()
