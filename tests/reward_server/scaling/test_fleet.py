"""The actors on Ray, without Ray: what happens when a scorer ends again and again, or Ray fails."""

from __future__ import annotations

import threading
import time
from typing import Any, ClassVar

import pytest

from reward_server.scaling.fleet import Fleet, _Scorer
from reward_server.scaling.messages import Call, CallLost, Lost
from reward_server.scaling.options import ModelOptions, ScalingOptions

OPTIONS = ScalingOptions(
    1, "auto", ModelOptions("transformers", "cpu", "auto", 1000, 0.9, 1, False)
)


class Timer:
    """Notes its pause, and calls nothing."""

    pauses_s: ClassVar[list[float]] = []
    daemon = False

    def __init__(self, pause_s: float, _: object) -> None:
        self.pauses_s.append(pause_s)

    def start(self) -> None: ...


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(threading, "Timer", Timer)
    monkeypatch.setattr(Fleet, "_start", lambda *_: None)
    Timer.pauses_s.clear()
    return []


@pytest.fixture
def fleet(sent: list[Any]) -> Fleet:
    return Fleet(None, OPTIONS, 0.0, sent.append, lambda function: function())


def test_a_scorer_that_ends_for_days_is_started_again_each_time(
    fleet: Fleet, sent: list[Any]
) -> None:
    fleet.add(0)
    scorer: _Scorer = fleet._scorers[0]
    for _ in range(3000):
        scorer.started_s = time.monotonic()
        fleet.restart(0, scorer.run, "killed")
    assert sum(isinstance(message, Lost) for message in sent) == 3000
    assert len(Timer.pauses_s) == 2999
    assert max(Timer.pauses_s) == Timer.pauses_s[-1] == 30.0


def test_a_call_that_ray_refuses_is_lost_and_the_scorer_started_again(
    fleet: Fleet, sent: list[Any]
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError("the object store is full")

    fleet.add(0)
    scorer = fleet._scorers[0]
    scorer.is_running, scorer.methods = True, {"score": refuse}
    fleet.call(Call(5, 0, scorer.run, "score", (1, b"")))
    lost, ended = sent
    assert isinstance(lost, CallLost)
    assert lost.number == 5
    assert "the object store is full" in lost.reason
    assert isinstance(ended, Lost)
