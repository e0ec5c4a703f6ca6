"""Scorers and nodes are killed under OpenRLHF's client: every reward is there and right."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.scaling.conftest import Front, Helpers, RayCluster, Rollout

NUM_SCORERS = 4
KEY = "a-key-of-the-tests"
POISON = "☠"


@pytest.fixture(scope="module")
def front(cluster: RayCluster, start_front: Callable[..., Front]) -> Front:
    """A server with four scorers on a cluster with room for five."""
    started = start_front(
        *("--scorers", str(NUM_SCORERS), "--ray-address", cluster.address),
        REWARD_SERVER_API_KEY=KEY,
    )
    started.url = started.url.replace("://", f"://any:{KEY}@")
    started.wait_for_up(NUM_SCORERS)
    return started


def post(front: Front, path: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        front.server.url + path, json.dumps(body).encode(), {"Authorization": f"Bearer {KEY}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_scorers_are_killed_under_load(
    front: Front,
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    scaling: Helpers,
) -> None:
    before = sum(scorer["restarts"] for scorer in front.scorers)
    trainer = scaling.Trainer(front.url, rollouts)
    num_killed = 0
    while not trainer.is_done:
        time.sleep(1.0)
        if pids := front.pids:
            os.kill(pids[num_killed % len(pids)], signal.SIGKILL)
            num_killed += 1
    assert trainer.wait() == pytest.approx(known_rewards(), abs=1e-5)
    assert num_killed >= 1
    # One that was killed before it ran is not counted.
    scaling.wait_until(lambda: sum(scorer["restarts"] for scorer in front.scorers) > before)
    front.wait_for_up(NUM_SCORERS)
    assert sum(scorer["tokens"] > 0 for scorer in front.scorers) == NUM_SCORERS


def test_a_node_is_lost_and_another_joins(
    front: Front,
    cluster: RayCluster,
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    scaling: Helpers,
) -> None:
    extra = cluster.add_node(4)
    status, answer = post(front, "/scorers", {"num": NUM_SCORERS + 4})
    assert (status, answer["num"]) == (200, NUM_SCORERS + 4)
    took_s = front.wait_for_up(NUM_SCORERS + 4)
    print(f"\nfour scorers on a new node are up after {took_s:.1f} s")
    on_extra = {p.pid for p in extra.processes} & set(front.pids)
    assert len(on_extra) >= 3, "the new node is used"
    trainer = scaling.Trainer(front.url, rollouts)
    scaling.wait_until(lambda: trainer.num_done > 100)
    extra.kill()
    assert trainer.wait() == pytest.approx(known_rewards(), abs=1e-5)
    scaling.wait_until(lambda: front.num_up == NUM_SCORERS + 1)  # what still has room
    status, answer = post(front, "/scorers", {"num": NUM_SCORERS})
    assert (status, answer["num"]) == (200, NUM_SCORERS)
    front.wait_for_up(NUM_SCORERS)
    assert len(front.scorers) == NUM_SCORERS


def test_a_node_is_lost_every_two_seconds(
    front: Front,
    cluster: RayCluster,
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    scaling: Helpers,
) -> None:
    """Nodes join as others are lost, while two keep their scorers."""
    known = known_rewards()
    post(front, "/scorers", {"num": NUM_SCORERS + 5})
    nodes = [cluster.add_node(2) for _ in range(2)]
    try:
        scaling.wait_until(lambda: front.num_up > NUM_SCORERS + 1)
        trainer = scaling.Trainer(front.url, rollouts)
        for _ in range(8):
            time.sleep(2.0)
            nodes.pop(0).kill()
            nodes.append(cluster.add_node(2))
            if trainer.is_done:
                assert trainer.wait() == pytest.approx(known, abs=1e-5)
                trainer = scaling.Trainer(front.url, rollouts)
        assert trainer.wait() == pytest.approx(known, abs=1e-5)
    finally:
        for node in nodes:
            node.kill()
        post(front, "/scorers", {"num": NUM_SCORERS})
    front.wait_for_up(NUM_SCORERS)


def test_a_rollout_that_kills_every_scorer_is_an_error_for_itself_only(
    front: Front,
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    scaling: Helpers,
) -> None:
    poisoned = replace(rollouts[0], response=f"{POISON} {rollouts[0].response}")
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(post, front, "/get_reward", poisoned.body)
        trainer = scaling.Trainer(front.url, rollouts[:200])
        assert trainer.wait() == pytest.approx(known_rewards()[:200], abs=1e-5)
        status, body = answer.result(120)
    assert (status, body["error"]["type"]) == (500, "scoring_failed")
    assert "5 scorers ended" in body["error"]["message"]
    front.wait_for_up(NUM_SCORERS)


def test_a_scorer_that_fails_where_others_do_not_is_started_again(
    front: Front,
    orders: Path,
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    scaling: Helpers,
) -> None:
    (broken, *_) = front.pids
    (orders / f"broken-{broken}").touch()
    trainer = scaling.Trainer(front.url, rollouts[:300])
    assert trainer.wait() == pytest.approx(known_rewards()[:300], abs=1e-5)
    scaling.wait_until(lambda: not psutil.pid_exists(broken))
    front.wait_for_up(NUM_SCORERS)


@pytest.mark.parametrize("num", [0, -1, 1.5, "2", True, None, 5000])
def test_a_wrong_number_of_scorers_is_refused(front: Front, num: Any) -> None:
    status, body = post(front, "/scorers", {"num": num})
    assert status == 400
    assert body["error"]["field"] == "num"


def test_scorers_end_with_a_server_that_is_killed(front: Front, scaling: Helpers) -> None:
    """The last test of this file."""
    scorers = front.pids
    assert len(scorers) == NUM_SCORERS
    front.server.process.kill()
    scaling.wait_until(lambda: not any(map(psutil.pid_exists, scorers)))
