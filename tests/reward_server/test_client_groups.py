"""OpenRLHF's unmodified client, which sends each rollout by itself, and a reward that compares."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from openrlhf.utils import agent

if TYPE_CHECKING:
    from tests.conftest import TestedServer

NUM_PROMPTS, GROUP_SIZE = 12, 4
REWARD = f"""
group_size = {GROUP_SIZE}
normalize = "gdpo"
[[terms]]
term = "correctness"
[[terms]]
term = "entropy"
weight = 0.3
[[terms]]
term = "sar"
weight = 0.2
only_if = "correct"
"""


class PlaybackEngine:
    """Has vLLM's `generate`; answers with a given text."""

    def __init__(self, tokenizer: Any, text: str) -> None:
        self._ids = tokenizer.encode(text, add_special_tokens=False)
        self._text = text

    async def generate(self, *_: Any, **__: Any) -> Any:
        output = SimpleNamespace(
            token_ids=self._ids, text=self._text, finish_reason="stop", logprobs=None
        )
        return SimpleNamespace(outputs=[output])


@pytest.mark.slow
def test_groups_come_together_and_have_gdpos_rewards(
    start_server: Callable[..., TestedServer], bundled_tokenizer: Any, tmp_path: Path
) -> None:
    file = tmp_path / "reward.toml"
    file.write_text(REWARD)
    server = start_server("--reward", str(file))
    server.wait_until_ready()
    executor = agent.SingleTurnAgentExecutor(f"{server.url}/get_reward")

    def execute(number: int, sibling: int) -> Any:
        text = f"{' so' * (sibling + number % 3)} the answer is {number + sibling % 2}."
        return executor.execute(
            f"Q: {number - 1} + 1?\nA:",
            str(number),
            SimpleNamespace(max_tokens=None, logprobs=None),
            1024,
            bundled_tokenizer,
            PlaybackEngine(bundled_tokenizer, text),
        )

    async def execute_all() -> list[Any]:
        # Siblings are far apart, as they may be in a trainer.
        pairs = itertools.product(range(GROUP_SIZE), range(NUM_PROMPTS))
        return await asyncio.gather(*(execute(number, sibling) for sibling, number in pairs))

    outputs = asyncio.run(execute_all())
    for number in range(NUM_PROMPTS):
        group = outputs[number::NUM_PROMPTS]
        logs = [{k: v[0] for k, v in one["extra_logs"].items()} for one in group]
        assert [one["scores"][0] for one in group] == [1, 0, 1, 0]
        expected = [0.0] * GROUP_SIZE
        for weight, values in (
            (1.0, [one["term_correctness"] for one in logs]),
            (0.3, [one["term_entropy"] for one in logs]),
            (0.2, [one["term_sar"] * one["correctness"] for one in logs]),
        ):
            mean, deviation = statistics.fmean(values), statistics.stdev(values)
            for index, value in enumerate(values):
                expected[index] += weight * (value - mean) / (deviation + 1e-4)
        rewards = [one["reward"][0] for one in group]
        assert rewards == pytest.approx(expected, abs=1e-4)
        assert len(set(rewards)) > 2
        assert all(one["cohort_incomplete"] == 0 for one in logs)
    health = server.request("/healthz")[1]
    assert (health["groups"], health["groups_incomplete"]) == (NUM_PROMPTS, 0)
    assert (health["held_rollouts"], health["in_flight"]) == (0, 0)
    assert server.stop() == 0
