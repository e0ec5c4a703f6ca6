"""The reward function for verl, called as verl calls it, with a real server."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recipes.adapters.client import RewardError
from recipes.adapters.verl import compute_score
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

FILE = Path(__file__).parents[3] / "recipes/adapters/verl.py"


@pytest.fixture(scope="module")
def prompt(bundled_tokenizer: Any) -> str:
    return render_prompt(bundled_tokenizer, "What is 3 + 4?", DEFAULT_SYSTEM_PROMPT)


def call(url: str, label: Any, extra_info: Any, response: str = "3 + 4 = 7. Answer: 7") -> Any:
    """Calls it as verl's NaiveRewardManager does: keywords, a thread, verl's extra_info."""
    extra_info |= {"num_turns": 2, "rollout_reward_scores": {}}
    function = partial(
        compute_score,
        data_source="gsm8k",
        solution_str=response,
        ground_truth=label,
        extra_info=extra_info,
        reward_router_address=None,
        reward_model_tokenizer=None,
        url=url,
        num_tries=1,
    )

    async def run() -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, function)

    return asyncio.run(run())


@pytest.mark.parametrize("label", ["7", '{"answer": "7", "mode": "eval"}', "8"])
def test_rewards_are_the_servers(server: Any, prompt: str, label: str) -> None:
    got = call(server.url + "/get_reward", label, {"prompt": prompt})
    body = {"query": [prompt + "3 + 4 = 7. Answer: 7"], "prompts": [prompt], "labels": [label]}
    _, answer = server.request("/get_reward", body)
    assert got["score"] == pytest.approx(answer["rewards"][0], abs=1e-5)
    assert got["correctness"] == answer["scores"][0]
    assert got["sar"] == pytest.approx(answer["extra_logs"]["sar"][0], abs=1e-5)
    assert got["template_mismatch"] == 0
    # verl's validation adds "reward" itself, and counts failed rollouts as an "acc" of 0.
    assert set(got) == {"score", *answer["extra_logs"]}


def test_it_is_loaded_from_its_file(server: Any, prompt: str) -> None:
    """Loads the file as verl does: under its own module name, outside any package."""
    spec = importlib.util.spec_from_file_location("custom_module", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    url = server.url + "/get_reward"
    got = module.compute_score("gsm8k", "Answer: 7", "7", {"prompt": prompt}, url=url)
    assert got["correctness"] == 1


@pytest.mark.parametrize("extra_info", [{}, {"prompt": None}, {"prompt": [{"role": "user"}]}])
def test_a_missing_prompt_is_named(server: Any, extra_info: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"extra_info\['prompt'\] of a row of 'gsm8k' is "
    ) as error:
        call(server.url + "/get_reward", "7", extra_info)
    assert "\n" not in str(error.value)


def test_several_turns_are_refused(server: Any, prompt: str) -> None:
    """The response would contain what tools said, and nothing tells it from the policy's words."""
    for num_turns in (3, 4):
        extra_info = {"prompt": prompt, "num_turns": num_turns}
        with pytest.raises(ValueError, match=f"the rollout has {num_turns} turns") as error:
            compute_score("gsm8k", "7", "7", extra_info, url=server.url + "/get_reward")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("fault", [0, 401, 413, 500])
def test_a_server_that_fails_raises(flaky: Any, prompt: str, fault: int) -> None:
    flaky.refused = {"7": fault}
    with pytest.raises(RewardError, match=f"HTTP {fault}|cannot be reached|requires a key"):
        call(flaky.url, "7", {"prompt": prompt})


def test_a_failure_raises(server: Any, prompt: str) -> None:
    with pytest.raises(RewardError, match=r"HTTP 400: labels\[0\]"):
        call(server.url + "/get_reward", 7, {"prompt": prompt})
    with pytest.raises(ValueError, match=r"reward_kwargs\.url"):
        compute_score("gsm8k", "7", "7", {"prompt": prompt})
    with socket.socket() as held:  # a port that nothing listens on
        held.bind(("127.0.0.1", 0))
        with pytest.raises(RewardError, match="cannot be reached"):
            call(f"http://127.0.0.1:{held.getsockname()[1]}/get_reward", "7", {"prompt": prompt})
