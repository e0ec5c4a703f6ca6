"""The adapters with a real server whose reward compares the rollouts of a prompt."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.adapters.client import RewardClient, RewardError
from recipes.adapters.slime import compute_rewards
from recipes.adapters.trl import RemoteReward, _make_chunks
from recipes.adapters.verl import RewardManager
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

SIZE = 3
FILE = f"""
group_size = {SIZE}
normalize = "gdpo"
[[terms]]
term = "correctness"
[[terms]]
term = "sar"
weight = 0.2
"""
RESPONSES = ["3 + 4 = 7. Answer: 7", "Answer: 7", "3 + 4 = 8. Answer: 8"]
QUESTIONS = {"What is 3 + 4?": "7", "What is 4 + 3?": "7"}


@pytest.fixture(scope="module")
def grouping(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("reward") / "gdpo.toml"
    path.write_text(FILE)
    server = start_server("--reward", str(path), "--request-timeout", "20")
    server.wait_until_ready()
    return server


@pytest.fixture(scope="module")
def url(grouping: Any) -> str:
    return f"{grouping.url}/get_reward"


def normalise(answers: list[dict[str, float]]) -> list[float]:
    """GDPO's rewards of one group, from its answers' raw values."""
    rewards = [0.0] * len(answers)
    for name, weight in (("correctness", 1.0), ("sar", 0.2)):
        values = [one[name] for one in answers]
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        for n, value in enumerate(values):
            rewards[n] += weight * (value - mean) / (deviation + 1e-4)
    return rewards


@pytest.fixture
def prompts(bundled_tokenizer: Any) -> list[str]:
    return [render_prompt(bundled_tokenizer, one, DEFAULT_SYSTEM_PROMPT) for one in QUESTIONS]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_trl_sends_the_rollouts_of_a_prompt_together(
    batch_size: int, url: str, bundled_tokenizer: Any, prompts: list[str]
) -> None:
    reward = RemoteReward(url, bundled_tokenizer, batch_size=batch_size, num_tries=1)
    logged: dict[str, float] = {}
    ids = [[*bundled_tokenizer.encode(text), bundled_tokenizer.eos_token_id] for text in RESPONSES]
    rewards = reward(
        prompts=[one for one in prompts for _ in range(SIZE)],
        completions=RESPONSES * 2,
        completion_ids=ids * 2,
        label=["7"] * (2 * SIZE),
        log_metric=logged.__setitem__,
    )
    assert logged["cohort_incomplete"] == 0
    for start in (0, SIZE):
        group: Any = rewards[start : start + SIZE]
        assert sum(group) == pytest.approx(0, abs=1e-6)
        assert group[2] < 0 < max(group)
    query = prompts[0] + RESPONSES[0] + "<|im_end|>"
    queries = [query] + [prompts[0] + text + "<|im_end|>" for text in RESPONSES[1:]]
    answers = RewardClient(url).ask(queries, [prompts[0]] * SIZE, ["7"] * SIZE)
    assert rewards[:SIZE] == pytest.approx(normalise(answers), abs=1e-4)


@pytest.mark.parametrize(
    ("prompts_of", "size", "lengths"),
    [
        ("aaabbb", 3, [3, 3]),
        ("aaabbb", 4, [3, 3]),
        ("aaabbb", 6, [6]),
        ("aaabbb", 1, [3, 3]),
        ("aabbccd", 5, [4, 3]),
        ("aaaaaaab", 4, [7, 1]),
        ("abab", 2, [2, 2]),
        ("", 2, []),
    ],
)
def test_chunks_are_whole_groups(prompts_of: str, size: int, lengths: list[int]) -> None:
    rollouts = [(str(n), prompt, {"answer": "7"}) for n, prompt in enumerate(prompts_of)]
    chunks = _make_chunks(rollouts, size)
    assert [len(chunk) for chunk in chunks] == lengths
    assert [one for chunk in chunks for one in chunk] == rollouts


def test_slime_sends_a_group(url: str, prompts: list[str]) -> None:
    args = SimpleNamespace(rm_url=url)
    group = [SimpleNamespace(prompt=prompts[0], response=one, label="7") for one in RESPONSES]
    answers = asyncio.run(compute_rewards(args, group))
    assert [one["reward"] for one in answers] == pytest.approx(normalise(answers), abs=1e-6)
    assert [one["score"] for one in answers] == [1, 1, 0]


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (SimpleNamespace(prompt="a", response="b", label="7"), "train with --group-rm"),
        ([SimpleNamespace(prompt=[{}], response="b", label="7")], "--apply-chat-template"),
    ],
)
def test_what_slime_must_not_send(samples: Any, said: str, url: str) -> None:
    with pytest.raises(ValueError, match=said):
        asyncio.run(compute_rewards(SimpleNamespace(rm_url=url), samples))


def test_verl_needs_enough_requests_at_a_time(url: str, bundled_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"compares 3 rollouts.*reward_kwargs\.max_requests="):
        make_manager(url, bundled_tokenizer)
    make_manager(url, bundled_tokenizer, max_requests=8)
    with pytest.raises(ValueError, match="max_requests=0"):
        make_manager(url, bundled_tokenizer, max_requests=0)


def make_manager(url: str, tokenizer: Any, **options: Any) -> RewardManager:
    settings = {
        "reward_kwargs": {"url": url, "num_tries": 1, **options},
        "reward_model": SimpleNamespace(enable=False),
        "custom_reward_function": SimpleNamespace(path=None),
    }
    agent = SimpleNamespace(default_agent_loop="single_turn_agent")
    rollout = SimpleNamespace(agent=agent, multi_turn={})
    config = SimpleNamespace(
        reward=type("Node", (dict,), settings)(settings),
        actor_rollout_ref=SimpleNamespace(rollout=rollout),
    )
    return RewardManager(config, tokenizer)


def test_molt_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = pytest.importorskip("molt.agents.base", reason="molt-rl is not installed; see Makefile")
    file = Path(__file__).parents[3] / "recipes/adapters/molt.py"
    monkeypatch.setenv("REWARD_URL", url)
    with pytest.raises(ValueError, match="compares 3 rollouts of a prompt, and Molt"):
        base.load_agent_runner(str(file))


def test_one_by_one_where_holding_would_deadlock_is_refused(
    grouping: Any, prompts: list[str]
) -> None:
    """slime's and miles' own `remote_rm`."""
    one = {"prompt": prompts[0], "response": RESPONSES[0], "label": "7"}
    status, answer = grouping.request("/rm", one)
    assert status == 400
    assert "/get_reward" in answer["error"]["message"]


def test_the_size_of_groups_that_a_server_compares(url: str, server: Any) -> None:
    assert RewardClient(url).find_group_size() == SIZE
    assert RewardClient(f"{server.url}/get_reward").find_group_size() is None
    with pytest.raises(RewardError, match="cannot be reached"):
        RewardClient("http://127.0.0.1:1/get_reward").find_group_size()
