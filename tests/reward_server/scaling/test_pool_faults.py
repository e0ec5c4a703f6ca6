"""The pool loses its connection to Ray, and scorers hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from reward_server.scaling import models as models_module
from reward_server.scaling import pool as pool_module
from reward_server.scaling.messages import NotConnected
from reward_server.scaling.options import ScalingOptions
from reward_server.scaling.pool import ScorerPool
from reward_server.weights.remote import LoadFailed

if TYPE_CHECKING:
    from tests.reward_server.scaling.conftest import PoolHelpers


def test_the_connection_is_lost_and_comes_back(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pool = make_pool(2)
    batcher = pools.serve(pool.load("model"))
    pools.wait_until(lambda: pool.num_up == 2)
    pools.Driver.refuses.append(NotConnected("no Ray there", is_final=False))
    pools.Driver.started[0].stop()
    pools.wait_until(lambda: len(pools.Driver.started) == 3 and pool.num_up == 2)
    assert pools.score(batcher, *range(9)) == list(range(9))
    assert [scorer.restarts for scorer in pool.describe(0)] == [1, 1]
    assert batcher.num_scorers == 2


def test_a_scorer_that_waits_for_a_place_is_said_once(
    make_pool: Callable[..., ScorerPool],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pools: PoolHelpers,
) -> None:
    monkeypatch.setattr(models_module, "_WAITING_S", 0.1)
    pool = make_pool(2)
    pools.serve(pool.load("model"))
    pools.wait_until(lambda: pool.num_up == 2)
    pools.Driver.started[0].kill(1, comes_back=False)

    def list_said() -> list[str]:
        return [one.getMessage() for one in caplog.records if " waits: " in one.getMessage()]

    pools.wait_until(list_said)
    time.sleep(0.2)
    (said,) = list_said()
    assert said.startswith("scorer 1 waits: Ray has found no room for it")
    assert pool.describe(0)[1].busy_share == 0


def test_a_driver_that_cannot_start_is_tried_again(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    errors = [OSError(12, "Cannot allocate memory"), RuntimeError("can't start new thread")]
    pools.Driver.start_errors.extend(errors)
    batcher = pools.serve(make_pool(2).load("model"))
    assert pools.score(batcher, *range(9)) == list(range(9))
    assert not pools.Driver.start_errors


def test_without_a_connection_no_scorer_is_up(
    make_pool: Callable[..., ScorerPool], monkeypatch: pytest.MonkeyPatch, pools: PoolHelpers
) -> None:
    pool = make_pool(2)
    batcher = pools.serve(pool.load("model"))
    pools.wait_until(lambda: pool.num_up == 2)
    monkeypatch.setattr(pool_module, "_FIRST_PAUSE_S", 3600.0)
    pools.Driver.started[0].stop()
    pools.wait_until(lambda: batcher.num_scorers == 0)
    assert pools.list_states(pool) == ["starting", "starting"]


def test_ray_that_is_not_installed_is_said_at_once(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pools.Driver.refuses.append(NotConnected("Ray is not installed: pip install", is_final=True))
    pool = make_pool(2)
    with pytest.raises(LoadFailed, match="Ray is not installed: pip install"):
        pool.load("model")


def test_a_server_that_stops_does_not_wait_for_scorers(pools: PoolHelpers) -> None:
    pools.Driver.refuses.extend([NotConnected("no Ray there", is_final=False)] * 1000)
    is_stopping = threading.Event()
    pool = ScorerPool(ScalingOptions(2, "auto", pools.OPTIONS), is_stopping.is_set)
    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(pool.load, "model")
        pools.wait_until(lambda: len(pools.Driver.started) > 1)
        assert not loading.done()
        is_stopping.set()
        with pytest.raises(LoadFailed, match="stopping"):
            loading.result(pools.WAIT_S)
    pool.close()


def test_a_scorer_that_hangs_is_started_again(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pool = make_pool(2, pack_timeout_s=0.3)
    batcher = pools.serve(pool.load("model"))
    pools.wait_until(lambda: pool.num_up == 2)
    pools.InProcess.hangs.release()
    assert pools.score(batcher, *range(20)) == list(range(20))
    pools.wait_until(lambda: sorted(scorer.restarts for scorer in pool.describe(0)) == [0, 1])
    pools.wait_until(lambda: pool.num_up == 2)
    pools.InProcess.hang_ends.set()


def test_a_scorer_that_hangs_while_it_loads_is_started_again(
    make_pool: Callable[..., ScorerPool], monkeypatch: pytest.MonkeyPatch, pools: PoolHelpers
) -> None:
    monkeypatch.setattr(models_module, "_LOAD_TIMEOUT_S", 0.3)
    first, ends = iter([True]), threading.Event()

    def hang_once() -> None:
        if next(first, False):
            ends.wait(pools.WAIT_S)

    pools.InProcess.fails["model"] = hang_once
    pool = make_pool(2)
    batcher = pools.serve(pool.load("model"))
    assert pools.score(batcher, *range(20)) == list(range(20))
    pools.wait_until(lambda: pool.num_up == 2)
    assert sorted(scorer.restarts for scorer in pool.describe(0)) == [0, 1]
    ends.set()


class Threads:
    """Scoring threads that cannot start for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.are_short = threading.Event()
        start = threading.Thread.start

        def start_or_fail(thread: threading.Thread) -> None:
            if thread.name == "scoring" and self.are_short.is_set():
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_fail)


def test_a_scorer_that_comes_back_while_no_thread_is_left_is_used_later(
    make_pool: Callable[..., ScorerPool],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pools: PoolHelpers,
) -> None:
    threads = Threads(monkeypatch)
    pool = make_pool(2)
    batcher = pools.serve(pool.load("model"))
    pools.wait_until(lambda: pool.num_up == 2)
    threads.are_short.set()
    pools.Driver.started[0].kill(0)
    pools.wait_until(lambda: "scorer 0 gets no jobs yet: can't start new thread" in caplog.text)
    assert batcher.num_scorers == 1
    assert pools.score(batcher, *range(9)) == list(range(9))
    threads.are_short.clear()
    pools.wait_until(lambda: pool.num_up == batcher.num_scorers == 2)
    assert batcher.close(pools.WAIT_S)


def test_weights_that_come_while_no_thread_is_left_score_later(
    make_pool: Callable[..., ScorerPool], monkeypatch: pytest.MonkeyPatch, pools: PoolHelpers
) -> None:
    threads = Threads(monkeypatch)
    pool = make_pool(2)
    old = pools.serve(pool.load("model"))
    pools.wait_until(lambda: pool.num_up == 2)
    threads.are_short.set()
    new = pools.serve(pool.load("checkpoint"))
    assert new.num_scorers == 0
    threads.are_short.clear()
    assert pools.score(new, *range(9)) == list(range(9))
    pools.wait_until(lambda: pool.num_up == 2)
    assert old.close(pools.WAIT_S)
    assert new.close(pools.WAIT_S)
