"""The pool with scorers in this process: they load, end, come back, and lose their connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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
from reward_server.weights.remote import LoadFailed, RemoteModel
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

    def __init__(self) -> None:
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


def test_all_scorers_load_and_score(make_pool: Callable[..., ScorerPool]) -> None:
    pool = make_pool(3)
    model = pool.load("model")
    assert model.facts["max_context_tokens"] == 1024
    batcher = serve(model)
    wait_until(lambda: pool.num_up == 3)
    assert score(batcher, *range(50)) == list(range(50))
    assert sum(scorer.tokens for scorer in pool.describe(7)) == 100
    assert {scorer.policy_version for scorer in pool.describe(7)} == {7}
    assert batcher.close(WAIT_S)
    assert pool.num_up == 0


def test_two_models_at_once(make_pool: Callable[..., ScorerPool]) -> None:
    pool = make_pool(2)
    InProcess.factors["new"] = 2.0
    old = serve(pool.load("old"))
    new = serve(pool.load("new"))
    assert score(old, 5, 6) == [5, 6]
    assert score(new, 5, 6) == [10, 12]
    assert old.close(WAIT_S)
    assert score(new, 7) == [14]
    wait_until(lambda: Driver.started[0].forgotten == [1])
    assert all(list(actor._models) == [2] for actor in Driver.started[0]._actors.values())


def test_a_lost_scorer_loads_what_is_in_service_before_it_is_used(
    make_pool: Callable[..., ScorerPool],
) -> None:
    pool = make_pool(2)
    batcher = serve(pool.load("model"))
    wait_until(lambda: pool.num_up == 2)
    for scorer in (0, 1):
        Driver.started[0].kill(scorer)
    assert score(batcher, *range(30)) == list(range(30))
    wait_until(lambda: pool.num_up == 2)
    assert [scorer.restarts for scorer in pool.describe(0)] == [1, 1]


def test_a_scorer_that_cannot_load_is_behind_until_it_can(
    make_pool: Callable[..., ScorerPool],
) -> None:
    pool = make_pool(3)
    wait_until(lambda: list_states(pool) == ["loading"] * 3)
    failing = threading.Semaphore(1)

    def fail_once() -> None:
        if failing.acquire(blocking=False):
            raise OSError(5, "Input/output error")

    InProcess.fails["model"] = fail_once
    batcher = serve(pool.load("model"))
    assert sorted(list_states(pool)) == ["behind", "up", "up"]
    assert pool.num_not_loaded == 1
    assert score(batcher, *range(9)) == list(range(9))
    wait_until(lambda: pool.num_up == 3)


def test_a_model_that_no_scorer_can_load_is_refused(make_pool: Callable[..., ScorerPool]) -> None:
    pool = make_pool(2)
    batcher = serve(pool.load("model"))

    def fail() -> None:
        raise ValueError("2 tensors are missing")

    InProcess.fails["broken"] = fail
    with pytest.raises(LoadFailed, match="2 tensors are missing") as failed:
        pool.load("broken")
    assert not failed.value.may_pass
    InProcess.fails["late"] = lambda: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    with pytest.raises(LoadFailed, match="Input/output error") as failed:
        pool.load("late")
    assert failed.value.may_pass
    assert pool.num_not_loaded == 4
    assert pool.num_up == 2
    assert score(batcher, 3) == [3]


def test_a_model_that_ends_each_scorer_is_refused(make_pool: Callable[..., ScorerPool]) -> None:
    pool = make_pool(2)
    batcher = serve(pool.load("model"))
    wait_until(lambda: pool.num_up == 2)
    driver = Driver.started[0]  # of this test: the last of these threads outlive it

    def kill_all() -> None:
        for scorer in (0, 1):
            driver.kill(scorer)

    def end() -> None:
        """Every scorer that loads it ends."""
        threading.Thread(target=kill_all).start()
        time.sleep(0.2)

    InProcess.fails["deadly"] = end
    with pytest.raises(LoadFailed, match="the scorer ended while it loaded") as failed:
        pool.load("deadly")
    assert failed.value.may_pass
    assert score(batcher, 3) == [3]


def test_a_scorer_with_a_shorter_context_gets_no_work(
    make_pool: Callable[..., ScorerPool],
) -> None:
    pool = make_pool(1)
    batcher = serve(pool.load("model"))
    wait_until(lambda: pool.num_up == 1)
    InProcess.contexts[:] = [512] * 10
    pool.set_num(2)
    wait_until(lambda: list_states(pool) == ["up", "behind"])
    assert score(batcher, *range(9)) == list(range(9))


def test_the_connection_is_lost_and_comes_back(make_pool: Callable[..., ScorerPool]) -> None:
    pool = make_pool(2)
    batcher = serve(pool.load("model"))
    wait_until(lambda: pool.num_up == 2)
    Driver.refuses.append(NotConnected("no Ray there", is_final=False))
    Driver.started[0].stop()
    wait_until(lambda: len(Driver.started) == 3 and pool.num_up == 2)
    assert score(batcher, *range(9)) == list(range(9))
    assert [scorer.restarts for scorer in pool.describe(0)] == [1, 1]
    assert batcher.num_scorers == 2


def test_without_a_connection_no_scorer_is_up(
    make_pool: Callable[..., ScorerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2)
    batcher = serve(pool.load("model"))
    wait_until(lambda: pool.num_up == 2)
    monkeypatch.setattr(pool_module, "_FIRST_PAUSE_S", 3600.0)
    Driver.started[0].stop()
    wait_until(lambda: batcher.num_scorers == 0)
    assert list_states(pool) == ["starting", "starting"]


def test_ray_that_is_not_installed_is_said_at_once(make_pool: Callable[..., ScorerPool]) -> None:
    Driver.refuses.append(NotConnected("Ray is not installed: pip install", is_final=True))
    pool = make_pool(2)
    with pytest.raises(LoadFailed, match="Ray is not installed: pip install"):
        pool.load("model")


def test_a_server_that_stops_does_not_wait_for_scorers() -> None:
    Driver.refuses.extend([NotConnected("no Ray there", is_final=False)] * 1000)
    is_stopping = threading.Event()
    pool = ScorerPool(ScalingOptions(2, "auto", OPTIONS), is_stopping.is_set)
    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(pool.load, "model")
        wait_until(lambda: len(Driver.started) > 1)
        assert not loading.done()
        is_stopping.set()
        with pytest.raises(LoadFailed, match="stopping"):
            loading.result(WAIT_S)
    pool.close()


def test_a_scorer_that_hangs_is_started_again(make_pool: Callable[..., ScorerPool]) -> None:
    pool = make_pool(2, pack_timeout_s=0.3)
    batcher = serve(pool.load("model"))
    wait_until(lambda: pool.num_up == 2)
    InProcess.hangs.release()
    assert score(batcher, *range(20)) == list(range(20))
    wait_until(lambda: sorted(scorer.restarts for scorer in pool.describe(0)) == [0, 1])
    wait_until(lambda: pool.num_up == 2)
    InProcess.hang_ends.set()


def test_a_scorer_that_hangs_while_it_loads_is_started_again(
    make_pool: Callable[..., ScorerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "_LOAD_TIMEOUT_S", 0.3)
    first, ends = iter([True]), threading.Event()

    def hang_once() -> None:
        if next(first, False):
            ends.wait(WAIT_S)

    InProcess.fails["model"] = hang_once
    pool = make_pool(2)
    batcher = serve(pool.load("model"))
    assert score(batcher, *range(20)) == list(range(20))
    wait_until(lambda: pool.num_up == 2)
    assert sorted(scorer.restarts for scorer in pool.describe(0)) == [0, 1]
    ends.set()


def test_scorers_are_added_and_removed(make_pool: Callable[..., ScorerPool]) -> None:
    pool = make_pool(1)
    batcher = serve(pool.load("model"))
    pool.set_num(5)
    wait_until(lambda: pool.num_up == 5)
    pool.set_num(2)
    wait_until(lambda: len(pool.describe(0)) == 2)
    assert [scorer.id for scorer in pool.describe(0)] == [0, 1], "the latest go first"
    assert score(batcher, *range(9)) == list(range(9))
    wait_until(lambda: batcher.num_scorers == 2)


def test_room_is_needed_for_all_scorers_of_a_machine(
    make_pool: Callable[..., ScorerPool],
) -> None:
    """Scorers 0, 2 and 4 share a node, and there is room for two more models."""
    pool = make_pool(4)
    model = pool.load("model")
    wait_until(lambda: list_states(pool) == ["loading"] * 4)
    assert model.has_room_for_copy()
    batcher = serve(model)
    pool.set_num(5)
    wait_until(lambda: pool.num_up == 5)
    assert not model.has_room_for_copy()
    assert batcher.close(WAIT_S)


def test_a_folder_that_changed_since_it_was_loaded_is_not_loaded(
    make_pool: Callable[..., ScorerPool], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    pool = make_pool(2)
    batcher = serve(pool.load(str(tmp_path)))
    wait_until(lambda: pool.num_up == 2)
    (tmp_path / "config.json").write_text("{} ")
    Driver.started[0].kill(0)
    wait_until(lambda: list_states(pool) == ["behind", "up"])
    assert score(batcher, *range(9)) == list(range(9))
