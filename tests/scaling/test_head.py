"""The head of the Ray cluster is lost, and comes back: the server stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import TestedServer
    from tests.scaling.conftest import Front, Helpers, RayCluster, Rollout


def test_requests_are_held_then_503_and_the_server_comes_back(
    start_cluster: Callable[[], RayCluster],
    start_front: Callable[..., Front],
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    scaling: Helpers,
) -> None:
    cluster = start_cluster()
    workers = [cluster.add_node(2)]
    front = start_front("--scorers", "2", "--ray-address", cluster.address,
                        "--request-timeout", "4")  # fmt: skip
    front.wait_for_up(2)
    for node in (cluster.head, *workers):
        node.kill()
    scaling.wait_until(lambda: front.num_up == 0)
    assert front.server.request("/readyz") == (503, {"status": "no scorer is up"})
    started_s = time.monotonic()
    status, body = front.server.request("/get_reward", rollouts[0].body)
    assert (status, body["error"]["type"]) == (503, "not_ready")
    assert body["error"]["message"] == "no scorer is up"
    assert time.monotonic() - started_s >= 4, "it was held"
    cluster.start_head()
    cluster.add_node(2)
    front.wait_for_up(2)
    assert front.server.request("/readyz") == (200, {"status": "ready"})
    trainer = scaling.Trainer(front.url, rollouts[:200])
    assert trainer.wait() == pytest.approx(known_rewards()[:200], abs=1e-5)
    assert front.server.process.poll() is None, "it is the same process"
    assert sum(scorer["restarts"] for scorer in front.scorers) == 2


def test_a_server_without_ray_waits_for_it_and_can_be_stopped(
    start_server: Callable[..., TestedServer], ray_environ: dict[str, str], scaling: Helpers
) -> None:
    server = start_server("--ray-address", "127.0.0.1:1", environ=ray_environ)
    scaling.wait_until(lambda: "no Ray (127.0.0.1:1): it is tried again" in server.log.read_text())
    assert server.request("/readyz") == (503, {"status": "loading"})
    assert server.stop() == 0
    assert "stopped before a scorer was up" in server.log.read_text()
