"""Rewards for Molt: its own StepEnvRunner with a real server, and an engine that writes a text."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.adapters.client import RewardError
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

base = pytest.importorskip("molt.agents.base", reason="molt-rl is not installed; see Makefile")

FILE = Path(__file__).parents[3] / "recipes/adapters/molt.py"
RESPONSE = "3 + 4 = 7. Answer: 7"


@pytest.fixture(scope="module")
def prompt(bundled_tokenizer: Any) -> str:
    return render_prompt(bundled_tokenizer, "What is 3 + 4?", DEFAULT_SYSTEM_PROMPT)


class Engine:
    """Answers as Molt's client of vLLM's router does: token ids, and no text."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    async def generate(self, *_: Any, **__: Any) -> tuple[Any, int]:
        output = SimpleNamespace(token_ids=self.ids, text="", finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output], prompt_routed_experts=None), 0


@pytest.fixture
def run(bundled_tokenizer: Any, prompt: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads the agent as Molt does and lets it make rollouts; returns them, or their errors."""

    def run(url: str, text: str, *labels: str, meanwhile: Any = None, **options: Any) -> Any:
        monkeypatch.setenv("REWARD_URL", url)
        runner = base.load_agent_runner(str(FILE))
        engine = Engine(bundled_tokenizer.encode(text))
        params = SimpleNamespace(max_tokens=64, min_tokens=1, logprobs=None)

        async def gather() -> Any:
            rollouts = [
                runner.execute(
                    prompt=prompt, label=label, sampling_params=params, max_length=1024,
                    hf_tokenizer=bundled_tokenizer, llm_engine=engine, **{"tools": None, **options}
                )
                for label in labels
            ]  # fmt: skip
            other = [] if meanwhile is None else [meanwhile()]
            # As Molt's rollout workers do; a rollout that raised is dropped.
            results = await asyncio.gather(*rollouts, *other, return_exceptions=True)
            return results[: len(labels)]

        return asyncio.run(asyncio.wait_for(gather(), 120))

    return run


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "cut"])
def test_a_rollout_has_the_servers_reward(
    run: Any, server: Any, bundled_tokenizer: Any, prompt: str, ends: bool
) -> None:
    text = RESPONSE + bundled_tokenizer.eos_token * ends
    labels = ["7", "8", '{"answer": "7", "mode": "eval"}']
    body = {"query": [prompt + text] * 3, "prompts": [prompt] * 3, "labels": labels}
    _, answer = server.request("/get_reward", body)
    for index, rollout in enumerate(run(server.url + "/get_reward", text, *labels, images=None)):
        assert rollout.reward == pytest.approx(answer["rewards"][index], abs=1e-5)
        assert rollout.scores == answer["scores"][index]
        assert set(rollout.extra_logs) == set(answer["extra_logs"])
        assert rollout.extra_logs["response_tokens"] == len(bundled_tokenizer.encode(text))
        assert rollout.extra_logs["template_mismatch"] == 0
        assert len(rollout.action_ranges) == 1
        assert not rollout.truncated


@pytest.mark.parametrize("fault", [400, 401, 413])
def test_a_rollout_that_the_server_refuses_has_no_reward(run: Any, flaky: Any, fault: int) -> None:
    flaky.refused = {"9": fault}
    right, refused = run(flaky.url, RESPONSE, "7", "9")
    assert right.scores == 1
    assert isinstance(refused, RewardError)


@pytest.mark.parametrize("fault", [0, 500])
def test_rollouts_wait_for_a_server_that_starts_again(
    run: Any, flaky: Any, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    monkeypatch.setattr("recipes.adapters.client.time.sleep", lambda _: None)
    flaky.refused, flaky.num_refusals = {"7": fault}, 8  # more than the client's own five tries
    (rollout,) = run(flaky.url, RESPONSE, "7")
    assert rollout.scores == 1


@pytest.mark.parametrize("fault", [0, 500])
def test_a_server_that_stays_away_gives_no_reward(
    run: Any, flaky: Any, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("recipes.adapters.client.time.sleep", waited.append)
    flaky.refused = {"7": fault}
    (error,) = run(flaky.url, RESPONSE, "7")
    assert isinstance(error, RewardError)
    assert 15 * 60 < sum(waited) < 30 * 60  # seconds


def test_rollouts_share_few_connections_and_leave_the_loop_free(run: Any, flaky: Any) -> None:
    async def open_late() -> None:
        while flaky.max_at_once < 32:  # no request is answered before the loop comes here
            await asyncio.sleep(0.01)
        flaky.open.set()

    async def close_first() -> None:
        flaky.open.clear()
        await open_late()

    rollouts = run(flaky.url, RESPONSE, *["7"] * 80, meanwhile=close_first)
    assert [rollout.scores for rollout in rollouts] == [1] * 80
    assert flaky.max_at_once == 32


def test_images_are_refused(run: Any, server: Any) -> None:
    (error,) = run(server.url + "/get_reward", RESPONSE, "7", images=["a picture"])
    assert isinstance(error, ValueError)
    assert "the prompt has images" in str(error)


def test_tools_are_refused(run: Any, server: Any) -> None:
    (error,) = run(server.url + "/get_reward", RESPONSE, "7", tools=[{"type": "function"}])
    assert isinstance(error, ValueError)
    assert "the prompt has tools" in str(error)
    (rollout,) = run(server.url + "/get_reward", RESPONSE, "7", tools=[])
    assert rollout.scores == 1


def test_a_run_does_not_start_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Molt loads the agent in its own process first, so this ends the run."""
    monkeypatch.setattr("recipes.adapters.client.time.sleep", lambda _: None)
    monkeypatch.delenv("REWARD_URL", raising=False)
    with pytest.raises(ValueError, match="REWARD_URL is not set"):
        base.load_agent_runner(str(FILE))
    with socket.socket() as held:  # a port that nothing listens on
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("REWARD_URL", f"http://127.0.0.1:{held.getsockname()[1]}/get_reward")
        with pytest.raises(RewardError, match="cannot be reached"):
            base.load_agent_runner(str(FILE))
