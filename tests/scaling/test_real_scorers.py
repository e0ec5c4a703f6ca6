"""Two scorers of the bundled model, on a Ray that the server starts, give one scorer's rewards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.conftest import TestedServer
    from tests.scaling.conftest import Front, Helpers, Rollout

KEY = "a-key-of-the-tests"
NUM_ROLLOUTS = 96


@pytest.fixture(scope="module")
def front(start_front: Callable[..., Front]) -> Front:
    """Weights are sent, so that scorers need no folder. Its scorers see none of the server's."""
    started = start_front(
        *("--scorers", "2", "--scorer-weights", "sent"), real=True, REWARD_SERVER_API_KEY=KEY
    )
    started.wait_for_up(2)
    return started


def ask(url: str, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


def get_rewards(url: str, rollouts: Sequence[Rollout]) -> list[float]:
    body = {
        "query": [one.prompt + one.response for one in rollouts],
        "prompts": [one.prompt for one in rollouts],
        "labels": [one.label for one in rollouts],
    }
    rewards: list[float] = ask(url, "/get_reward", body)["rewards"]
    return rewards


@pytest.fixture(scope="module")
def one_scorer(start_server: Callable[..., TestedServer]) -> TestedServer:
    """A server that scores in its own process."""
    server = start_server(environ={"REWARD_SERVER_API_KEY": KEY})
    server.wait_until_ready()
    return server


def test_two_scorers_give_the_rewards_of_one(
    front: Front, one_scorer: TestedServer, rollouts: list[Rollout], scaling: Helpers
) -> None:
    chosen = rollouts[:NUM_ROLLOUTS]
    expected = get_rewards(one_scorer.url, chosen)
    assert len(set(expected)) > NUM_ROLLOUTS / 2
    assert get_rewards(front.server.url, chosen) == pytest.approx(expected, abs=1e-5)
    url = front.url.replace("://", f"://any:{KEY}@")
    assert scaling.Trainer(url, chosen).wait() == pytest.approx(expected, abs=1e-5)
    assert all(scorer["tokens"] > 0 for scorer in front.scorers)


def test_sent_weights_need_no_folder(
    front: Front,
    one_scorer: TestedServer,
    checkpoints: dict[int, Path],
    rollouts: list[Rollout],
    tmp_path: Path,
    scaling: Helpers,
) -> None:
    """A scorer that starts after the checkpoint was deleted has its weights all the same."""
    saved = tmp_path / "global_step20_hf"
    shutil.copytree(checkpoints[20], saved)
    for url in (front.server.url, one_scorer.url):
        assert ask(url, "/update_weights", {"path": str(saved)}) == {"policy_version": 20}
    expected = get_rewards(one_scorer.url, rollouts[:32])
    shutil.rmtree(saved)
    killed = front.pids
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    scaling.wait_until(lambda: sum(one["restarts"] for one in front.scorers) >= 2)
    front.wait_for_up(2)
    assert get_rewards(front.server.url, rollouts[:32]) == pytest.approx(expected, abs=1e-5)
    assert not list(Path("/tmp").glob("reward_server_weights_*/global_step20_hf/*")), "temporary"


def test_a_broken_checkpoint_is_refused(
    front: Front, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    import safetensors.torch

    broken = tmp_path / "global_step30_hf"
    shutil.copytree(checkpoints[10], broken)
    tensors = safetensors.torch.load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] *= float("nan")
    safetensors.torch.save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(front.server.url, "/update_weights", {"path": str(broken)})
    assert refused.value.code == 400
    assert "NaN" in json.load(refused.value)["error"]["message"]
    assert front.health["policy_version"] == 20
    assert front.num_up == 2


def test_nothing_is_left_when_the_server_stops(front: Front) -> None:
    """The last test of this file: neither scorers nor Ray's own processes."""
    processes = [
        process
        for process in psutil.Process(front.server.process.pid).children(recursive=True)
        if process.is_running()
    ]
    scorers = front.pids
    assert len(scorers) == 2
    assert front.server.stop() == 0, front.log_text[-5000:]
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    assert not any(psutil.pid_exists(pid) for pid in scorers)
