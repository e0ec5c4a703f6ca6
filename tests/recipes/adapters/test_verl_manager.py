"""The reward manager for verl, with rows such as verl gives and a real server.

test_verl_itself.py runs it inside verl.
"""

from __future__ import annotations

import asyncio
import math
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipes.adapters.client import RewardError
from recipes.adapters.verl import RewardManager
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

RESPONSE = "3 + 4 = 7. Answer: 7"


@pytest.fixture(scope="module")
def prompt(bundled_tokenizer: Any) -> str:
    return render_prompt(bundled_tokenizer, "What is 3 + 4?", DEFAULT_SYSTEM_PROMPT)


def make_config(
    url: str, *, loop: str = "single_turn_agent", tools: Any = None, **changes: Any
) -> Any:
    settings = {
        "reward_kwargs": {"url": url, "num_tries": 1},
        "reward_model": SimpleNamespace(enable=False),
        "custom_reward_function": SimpleNamespace(path=None),
        **changes,
    }
    agent = SimpleNamespace(default_agent_loop=loop)
    rollout = SimpleNamespace(agent=agent, multi_turn=tools or {"tool_config_path": None})
    return SimpleNamespace(
        reward=type("Node", (dict,), settings)(settings),
        actor_rollout_ref=SimpleNamespace(rollout=rollout),
    )


def make_rows(
    prompt_ids: list[int],
    response_ids: list[int],
    label: Any,
    *,
    padding: tuple[int, int] = (0, 0),
    pad_id: int = 0,
    **fields: Any,
) -> Any:
    """One rollout as verl passes it: the prompt padded on its left, the response on its right."""
    left, right = padding
    mask = [0] * left + [1] * (len(prompt_ids) + len(response_ids)) + [0] * right
    batch = {
        "prompts": torch.tensor([pad_id] * left + prompt_ids, dtype=torch.int64),
        "responses": torch.tensor(response_ids + [pad_id] * right, dtype=torch.int64),
        "attention_mask": torch.tensor(mask, dtype=torch.int64),
    }
    fields = {"reward_model": {"ground_truth": label}, "__num_turns__": 2, **fields}
    return [SimpleNamespace(batch=batch, non_tensor_batch=fields)]


@pytest.mark.parametrize("padding", [(0, 0), (7, 5)], ids=["bare", "padded"])
@pytest.mark.parametrize("ends", [True, False], ids=["ended", "cut"])
def test_the_server_gets_every_token_and_no_padding(
    server: Any, bundled_tokenizer: Any, prompt: str, padding: tuple[int, int], ends: bool
) -> None:
    end = bundled_tokenizer.eos_token
    text = RESPONSE + end * ends
    ids = bundled_tokenizer.encode(text)
    manager = RewardManager(make_config(server.url + "/get_reward"), bundled_tokenizer)
    # Padding may be the end-of-sequence token, so only the mask tells them apart.
    rows = make_rows(
        bundled_tokenizer.encode(prompt),
        ids,
        "7",
        padding=padding,
        pad_id=bundled_tokenizer.eos_token_id,
    )
    got = asyncio.run(manager.run_single(rows))
    body = {"query": [prompt + text], "prompts": [prompt], "labels": ["7"]}
    _, answer = server.request("/get_reward", body)
    assert got["reward_score"] == pytest.approx(answer["rewards"][0], abs=1e-5)
    fields = got["reward_extra_info"]
    assert fields["response_tokens"] == len(ids)
    assert fields["sar"] == pytest.approx(answer["extra_logs"]["sar"][0], abs=1e-5)
    assert fields["template_mismatch"] == 0
    assert set(fields) == set(answer["extra_logs"])  # and no acc, reward or score


def test_many_rollouts_share_few_connections_and_leave_the_loop_free(
    flaky: Any, bundled_tokenizer: Any, prompt: str
) -> None:
    manager = RewardManager(make_config(flaky.url), bundled_tokenizer)
    flaky.open.clear()
    rows = make_rows(bundled_tokenizer.encode(prompt), bundled_tokenizer.encode(RESPONSE), "7")

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(manager.run_single(rows)) for _ in range(80)]
        while flaky.max_at_once < 32:  # no request is answered before the loop comes here
            await asyncio.sleep(0.01)
        flaky.open.set()
        return list(await asyncio.gather(*tasks))

    answers = asyncio.run(asyncio.wait_for(run(), 120))
    assert all(one["reward_extra_info"]["correctness"] == 1 for one in answers)
    assert flaky.max_at_once == 32


@pytest.mark.parametrize("fault", [0, 400, 401, 413, 500])
def test_a_failure_raises_what_any_process_can_unpickle(
    flaky: Any, bundled_tokenizer: Any, prompt: str, fault: int
) -> None:
    manager = RewardManager(make_config(flaky.url), bundled_tokenizer)
    flaky.refused = {"7": fault}
    rows = make_rows(bundled_tokenizer.encode(prompt), bundled_tokenizer.encode(RESPONSE), "7")
    with pytest.raises(RuntimeError, match="no reward: http://") as error:
        asyncio.run(manager.run_single(rows))
    assert type(error.value) is RuntimeError
    assert "\n" not in str(error.value)


def test_rollouts_wait_for_a_server_that_starts_again(
    flaky: Any, bundled_tokenizer: Any, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("recipes.adapters.client.time.sleep", waited.append)
    manager = RewardManager(make_config("", reward_kwargs={"url": flaky.url}), bundled_tokenizer)
    rows = make_rows(bundled_tokenizer.encode(prompt), bundled_tokenizer.encode(RESPONSE), "7")
    flaky.refused, flaky.num_refusals = {"7": 500}, 8  # more than the client's own five tries
    got = asyncio.run(manager.run_single(rows))
    assert got["reward_extra_info"]["correctness"] == 1
    flaky.num_refusals = math.inf
    waited.clear()
    with pytest.raises(RuntimeError, match="HTTP 500"):
        asyncio.run(manager.run_single(rows))
    assert 15 * 60 < sum(waited) < 30 * 60  # seconds


def test_the_run_does_not_start_without_a_server(flaky: Any, bundled_tokenizer: Any) -> None:
    with socket.socket() as held:  # a port that nothing listens on
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/get_reward"
        with pytest.raises(RewardError, match="cannot be reached"):
            RewardManager(make_config(url), bundled_tokenizer)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward_kwargs": None}, r"\+reward\.reward_kwargs\.url"),
        ({"reward_kwargs": {"num_tries": 1}}, r"\+reward\.reward_kwargs\.url"),
        ({"reward_model": SimpleNamespace(enable=True)}, r"reward_model\.enable=True"),
        ({"custom_reward_function": SimpleNamespace(path="a.py")}, r"custom_reward_function\.path"),
        ({"loop": "tool_agent"}, r"default_agent_loop=tool_agent: .* single_turn_agent"),
        ({"tools": {"tool_config_path": "t.yaml"}}, r"multi_turn\.tool_config_path=t\.yaml"),
        ({"tools": {"function_tool_path": "t.py"}}, r"multi_turn\.function_tool_path=t\.py"),
    ],
)
def test_settings_that_would_give_other_rewards(
    server: Any, bundled_tokenizer: Any, changes: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        RewardManager(make_config(server.url + "/get_reward", **changes), bundled_tokenizer)
    assert "\n" not in str(error.value)


def test_several_turns_are_refused(server: Any, bundled_tokenizer: Any, prompt: str) -> None:
    manager = RewardManager(make_config(server.url + "/get_reward"), bundled_tokenizer)
    ids = bundled_tokenizer.encode(prompt), bundled_tokenizer.encode(RESPONSE)
    rows = make_rows(*ids, "7", __num_turns__=4)
    with pytest.raises(ValueError, match="the rollout has 4 turns"):
        asyncio.run(manager.run_single(rows))
    with pytest.raises(ValueError, match="the agent loop gives 2 outputs for a prompt"):
        asyncio.run(manager.run_single(make_rows(*ids, "7") * 2))
