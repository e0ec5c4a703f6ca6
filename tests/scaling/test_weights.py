"""New weights reach every scorer; no rollout is scored with two versions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.scaling.conftest import Front, Helpers, RayCluster, Rollout

NUM_SCORERS = 4
KEY = "a-key-of-the-tests"
STEPS = (10, 11, 12, 13, 14)


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def front(
    cluster: RayCluster, start_front: Callable[..., Front], log_folder: Path
) -> Iterator[Front]:
    started = start_front(
        *("--scorers", str(NUM_SCORERS), "--ray-address", cluster.address),
        *("--reward-log", str(log_folder)),
        REWARD_SERVER_API_KEY=KEY,
    )
    started.url = started.url.replace("://", f"://any:{KEY}@")
    started.wait_for_up(NUM_SCORERS)
    yield started
    assert started.server.stop() == 0, started.log_text[-5000:]


@pytest.fixture(scope="module")
def saved(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[int, Path]
) -> dict[int, Path]:
    """Checkpoints by step. Stand-in scorers read the step in the name only."""
    folder = tmp_path_factory.mktemp("saved")
    paths = {step: folder / f"global_step{step}_hf" for step in (*STEPS, 20, 21, 22)}
    for path in paths.values():
        shutil.copytree(checkpoints[10], path)
    return paths


def update(front: Front, path: Path) -> tuple[int, Any]:
    request = urllib.request.Request(
        front.server.url + "/update_weights",
        json.dumps({"path": str(path)}).encode(),
        {"Authorization": f"Bearer {KEY}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("has_room", [True, False], ids=["beside", "in place"])
def test_no_rollout_is_scored_with_two_versions(
    has_room: bool,
    front: Front,
    orders: Path,
    saved: dict[int, Path],
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    log_folder: Path,
    scaling: Helpers,
) -> None:
    """Weights change five times under load. Each reward is that of one version, which the log
    names: both perplexities come from it."""
    if not has_room:
        (orders / "no_room").touch()
    first = front.health["policy_version"]
    num_before = len(read_log(log_folder))
    trainer = scaling.Trainer(front.url, rollouts)
    for step in STEPS:
        time.sleep(0.3)
        assert update(front, saved[step]) == (200, {"policy_version": step})
    trainer.wait()
    scaling.wait_until(lambda: len(read_log(log_folder)) == num_before + len(rollouts))
    known = {step: known_rewards(step) for step in {first, *STEPS}}
    index = {one.response + one.prompt: number for number, one in enumerate(rollouts)}
    versions = set()
    for record in read_log(log_folder)[num_before:]:
        version = record["policy_version"]
        number = index[record["response"] + record["prompt"]]
        assert record["reward"] == pytest.approx(known[version][number], abs=1e-5)
        versions.add(version)
    assert len(versions) > 1, "weights did not change while rollouts were scored"
    assert {scorer["policy_version"] for scorer in front.scorers} == {STEPS[-1]}


def test_a_scorer_that_cannot_load_is_out_of_service_and_counted(
    front: Front,
    orders: Path,
    saved: dict[int, Path],
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    scaling: Helpers,
) -> None:
    before = front.health["scorer_load_failures"]
    (orders / "fail_load").touch()
    assert update(front, saved[20]) == (200, {"policy_version": 20})
    assert front.health["scorer_load_failures"] == before + 1
    states = [scorer["state"] for scorer in front.scorers]
    assert sorted(states) == ["behind", *["up"] * (NUM_SCORERS - 1)]
    (behind,) = (one["id"] for one in front.scorers if one["state"] == "behind")
    trainer = scaling.Trainer(front.url, rollouts[:100])
    assert trainer.wait() == pytest.approx(known_rewards(20)[:100], abs=1e-5)
    assert front.server.request("/readyz") == (200, {"status": "ready"})
    metrics = front.server.request("/metrics")[1]
    series = f'reward_server_scorer_up{{node="{front.scorers[0]["node"]}",scorer="{behind}"}} 0.0'
    assert series in metrics
    front.wait_for_up(NUM_SCORERS)  # it is tried again


def test_a_checkpoint_that_no_scorer_can_load_is_refused(
    front: Front,
    orders: Path,
    saved: dict[int, Path],
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    scaling: Helpers,
) -> None:
    front.wait_for_up(NUM_SCORERS)
    version = front.health["policy_version"]
    (orders / "fail_loads").touch()
    status, body = update(front, saved[21])
    assert (status, body["error"]["type"]) == (503, "not_loaded")
    assert "Input/output error" in body["error"]["message"]
    assert front.num_up == NUM_SCORERS
    trainer = scaling.Trainer(front.url, rollouts[:50])
    assert trainer.wait() == pytest.approx(known_rewards(version)[:50], abs=1e-5)


def test_a_scorer_that_starts_loads_what_is_in_service(
    front: Front,
    saved: dict[int, Path],
    rollouts: list[Rollout],
    known_rewards: Callable[..., list[float]],
    scaling: Helpers,
) -> None:
    assert update(front, saved[22]) == (200, {"policy_version": 22})
    before = set(front.pids)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    scaling.wait_until(lambda: not before & set(front.pids))
    front.wait_for_up(NUM_SCORERS)
    trainer = scaling.Trainer(front.url, rollouts[:100])
    assert trainer.wait() == pytest.approx(known_rewards(22)[:100], abs=1e-5)
    assert {scorer["policy_version"] for scorer in front.scorers} == {22}


def test_files_that_changed_keep_a_new_scorer_out_until_the_next_checkpoint(
    front: Front, saved: dict[int, Path], scaling: Helpers
) -> None:
    path = saved[22] / "config.json"
    path.write_text(path.read_text() + "\n")
    os.kill(front.pids[0], signal.SIGKILL)
    scaling.wait_until(lambda: any(one["state"] == "behind" for one in front.scorers))
    assert front.num_up == NUM_SCORERS - 1
    assert "config.json is not, or not any more, the file that was loaded" in front.log_text
    assert update(front, saved[10]) == (200, {"policy_version": 10})
    front.wait_for_up(NUM_SCORERS)


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in sorted(folder.glob("*.jsonl*"))
        for line in file.read_text().splitlines()
    ]
