"""Which checkpoint is loaded next, and who is told to come back later."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reward_server.errors import Busy, ClientGone, NotReady
from reward_server.weights.update_queue import UpdateQueue


def _is_here() -> bool:
    return False


def _is_gone() -> bool:
    return True


def test_one_loads_one_waits_and_further_ones_are_refused() -> None:
    queue = UpdateQueue()
    queue.add(Path("a"), _is_here, "request")
    queue.add(Path("b"), _is_here, "request")
    for name in ("c", "d"):
        with pytest.raises(Busy, match="a is being loaded and b waits"):
            queue.add(Path(name), _is_here, "request")
    order = []
    while queue.is_loading:
        update = queue.take()
        assert update
        order.append(str(update.path))
        queue.finish()
    assert order == ["a", "b"]
    queue.add(Path("c"), _is_here, "request")
    assert queue.is_loading


def test_the_same_path_shares_the_update_that_loads_or_waits() -> None:
    queue = UpdateQueue()
    loading = queue.add(Path("a"), _is_here, "request")
    waiting = queue.add(Path("b"), _is_here, "request")
    assert queue.add(Path("a"), _is_here, "follower") is loading
    assert queue.add(Path("b"), _is_here, "follower") is waiting
    assert queue.add(Path("a"), _is_here, "request") is loading


def test_requests_and_the_follower_take_turns() -> None:
    """Though the place of each is taken again at once."""
    queue = UpdateQueue()
    queue.add(Path("first"), _is_here, "request")
    order = []
    for number in range(20):
        for source in ("request", "follower"):
            try:
                queue.add(Path(f"{source}{number}"), _is_here, source)
            except Busy:
                continue
        update = queue.take()
        assert update
        order.append(update.path.name.rstrip("0123456789"))
        queue.finish()
    assert order[1:] == ["request", "follower"] * 9 + ["request"]


def test_who_has_left_gives_up_the_place() -> None:
    queue = UpdateQueue()
    queue.add(Path("a"), _is_here, "request")
    left = queue.add(Path("b"), _is_gone, "request")
    queue.add(Path("c"), _is_here, "request")
    assert isinstance(left.exception(0), ClientGone)
    with pytest.raises(Busy):
        queue.add(Path("d"), _is_here, "request")


def test_an_update_that_others_wait_for_is_not_abandoned() -> None:
    queue = UpdateQueue()
    queue.add(Path("a"), _is_gone, "request")
    queue.add(Path("a"), _is_here, "request")
    update = queue.take()
    assert update
    assert not update.is_abandoned


def test_closing_fails_all_and_wakes_the_loader() -> None:
    queue = UpdateQueue()
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(queue.take)
        queue.close()
        assert taken.result(10) is None
    with pytest.raises(NotReady):
        queue.add(Path("a"), _is_here, "request")
    full = UpdateQueue()
    updates = [full.add(Path(name), _is_here, "request") for name in ("a", "b")]
    full.close()
    assert all(isinstance(update.exception(0), NotReady) for update in updates)
    assert full.is_loading  # `a` is: nothing can stop it
    full.finish()
    assert not full.is_loading
