"""The pool: its scorers load, score, end and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reward_server.scaling.pool import ScorerPool
from reward_server.weights.remote import LoadFailed

if TYPE_CHECKING:
    from tests.reward_server.scaling.conftest import PoolHelpers


def test_all_scorers_load_and_score(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pool = make_pool(3)
    model = pool.load("model")
    assert model.facts["max_context_tokens"] == 1024
    batcher = pools.serve(model)
    pools.wait_until(lambda: pool.num_up == 3)
    assert pools.score(batcher, *range(50)) == list(range(50))
    assert sum(scorer.tokens for scorer in pool.describe(7)) == 100
    assert {scorer.policy_version for scorer in pool.describe(7)} == {7}
    assert batcher.close(pools.WAIT_S)
    assert pool.num_up == 0


def test_two_models_at_once(make_pool: Callable[..., ScorerPool], pools: PoolHelpers) -> None:
    pool = make_pool(2)
    pools.InProcess.factors["new"] = 2.0
    old = pools.serve(pool.load("old"))
    new = pools.serve(pool.load("new"))
    assert pools.score(old, 5, 6) == [5, 6]
    assert pools.score(new, 5, 6) == [10, 12]
    assert old.close(pools.WAIT_S)
    assert pools.score(new, 7) == [14]
    pools.wait_until(lambda: pools.Driver.started[0].forgotten == [1])
    assert all(list(actor._models) == [2] for actor in pools.Driver.started[0]._actors.values())


def test_a_lost_scorer_loads_what_is_in_service_before_it_is_used(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pool = make_pool(2)
    batcher = pools.serve(pool.load("model"))
    pools.wait_until(lambda: pool.num_up == 2)
    for scorer in (0, 1):
        pools.Driver.started[0].kill(scorer)
    assert pools.score(batcher, *range(30)) == list(range(30))
    pools.wait_until(lambda: pool.num_up == 2)
    assert [scorer.restarts for scorer in pool.describe(0)] == [1, 1]


def test_a_scorer_that_cannot_load_is_behind_until_it_can(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pool = make_pool(3)
    pools.wait_until(lambda: pools.list_states(pool) == ["loading"] * 3)
    failing = threading.Semaphore(1)

    def fail_once() -> None:
        if failing.acquire(blocking=False):
            raise OSError(5, "Input/output error")

    pools.InProcess.fails["model"] = fail_once
    batcher = pools.serve(pool.load("model"))
    assert sorted(pools.list_states(pool)) == ["behind", "up", "up"]
    assert pool.num_not_loaded == 1
    assert pools.score(batcher, *range(9)) == list(range(9))
    pools.wait_until(lambda: pool.num_up == 3)


def test_a_model_that_no_scorer_can_load_is_refused(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pool = make_pool(2)
    batcher = pools.serve(pool.load("model"))

    def fail() -> None:
        raise ValueError("2 tensors are missing")

    pools.InProcess.fails["broken"] = fail
    with pytest.raises(LoadFailed, match="2 tensors are missing") as failed:
        pool.load("broken")
    assert not failed.value.may_pass
    pools.InProcess.fails["late"] = lambda: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    with pytest.raises(LoadFailed, match="Input/output error") as failed:
        pool.load("late")
    assert failed.value.may_pass
    assert pool.num_not_loaded == 4
    assert pool.num_up == 2
    assert pools.score(batcher, 3) == [3]


def test_a_model_that_ends_each_scorer_is_refused(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pool = make_pool(2)
    batcher = pools.serve(pool.load("model"))
    pools.wait_until(lambda: pool.num_up == 2)
    driver = pools.Driver.started[0]  # of this test: the last of these threads outlive it

    def kill_all() -> None:
        for scorer in (0, 1):
            driver.kill(scorer)

    def end() -> None:
        """Every scorer that loads it ends."""
        threading.Thread(target=kill_all).start()
        time.sleep(0.2)

    pools.InProcess.fails["deadly"] = end
    with pytest.raises(LoadFailed, match="the scorer ended while it loaded") as failed:
        pool.load("deadly")
    assert failed.value.may_pass
    assert pools.score(batcher, 3) == [3]


def test_a_scorer_with_a_shorter_context_gets_no_work(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pool = make_pool(1)
    batcher = pools.serve(pool.load("model"))
    pools.wait_until(lambda: pool.num_up == 1)
    pools.InProcess.contexts[:] = [512] * 10
    pool.set_num(2)
    pools.wait_until(lambda: pools.list_states(pool) == ["up", "behind"])
    assert pools.score(batcher, *range(9)) == list(range(9))


def test_scorers_are_added_and_removed(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    pool = make_pool(1)
    batcher = pools.serve(pool.load("model"))
    pool.set_num(5)
    pools.wait_until(lambda: pool.num_up == 5)
    pool.set_num(2)
    pools.wait_until(lambda: len(pool.describe(0)) == 2)
    assert [scorer.id for scorer in pool.describe(0)] == [0, 1], "the latest go first"
    assert pools.score(batcher, *range(9)) == list(range(9))
    pools.wait_until(lambda: batcher.num_scorers == 2)


def test_room_is_needed_for_all_scorers_of_a_machine(
    make_pool: Callable[..., ScorerPool], pools: PoolHelpers
) -> None:
    """Scorers 0, 2 and 4 share a node, and there is room for two more models."""
    pool = make_pool(4)
    model = pool.load("model")
    pools.wait_until(lambda: pools.list_states(pool) == ["loading"] * 4)
    assert model.has_room_for_copy()
    batcher = pools.serve(model)
    pool.set_num(5)
    pools.wait_until(lambda: pool.num_up == 5)
    assert not model.has_room_for_copy()
    assert batcher.close(pools.WAIT_S)


def test_a_folder_that_changed_since_it_was_loaded_is_not_loaded(
    make_pool: Callable[..., ScorerPool], tmp_path: Path, pools: PoolHelpers
) -> None:
    (tmp_path / "config.json").write_text("{}")
    pool = make_pool(2)
    batcher = pools.serve(pool.load(str(tmp_path)))
    pools.wait_until(lambda: pool.num_up == 2)
    (tmp_path / "config.json").write_text("{} ")
    pools.Driver.started[0].kill(0)
    pools.wait_until(lambda: pools.list_states(pool) == ["behind", "up"])
    assert pools.score(batcher, *range(9)) == list(range(9))
