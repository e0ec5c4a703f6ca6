"""GRPO with REWARD=FILE.toml and ON_POLICY=1: GDPO in OpenRLHF's own loop.

The agent is the recipes' (recording_agent.py). The siblings that it brings together are those that
OpenRLHF's rollout worker starts together.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SIZE = 4  # conftest.py's SAMPLES_PER_PROMPT
NUM_GROUPS = 4  # of a step: its PROMPTS_PER_STEP
NUM_STEPS = 3
FILE = f"""
group_size = {SIZE}
normalize = "gdpo"
[[terms]]
term = "correctness"
[[terms]]
term = "sar"
weight = 0.5
"""


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, server: Any, train: Any, read_scalars: Any
) -> tuple[list[dict[str, Any]], dict[str, dict[int, float]]]:
    """The training rollouts, and what the run wrote for TensorBoard."""
    folder = tmp_path_factory.mktemp("composed")
    output, rollouts, reward = folder / "run", folder / "rollouts.jsonl", folder / "gdpo.toml"
    reward.write_text(FILE)
    running = train(
        "grpo", output, server.url,
        "--train.agent_func_path", str(Path(__file__).with_name("recording_agent.py")),
        ON_POLICY="1", REWARD=str(reward), EVAL_STEPS="100", ROLLOUTS_FILE=str(rollouts),
    )  # fmt: skip
    assert running.wait() == 0, running.tail()
    records = [json.loads(line) for line in rollouts.read_text().splitlines()]
    return [one for one in records if one["mode"] == "train"], read_scalars(output)


def normalise(values: list[float]) -> list[float]:
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return [(value - mean) / (deviation + 1e-4) for value in values]


def test_rewards_are_normalised_among_the_rollouts_of_a_prompt(
    run: tuple[list[dict[str, Any]], Any],
) -> None:
    rollouts, _ = run
    assert len(rollouts) == NUM_STEPS * NUM_GROUPS * SIZE
    prompts = Counter(tuple(one["prompt_ids"]) for one in rollouts)
    assert set(prompts.values()) == {SIZE}
    assert any(one["reward"] for one in rollouts)
    for prompt in prompts:
        group = [one for one in rollouts if tuple(one["prompt_ids"]) == prompt]
        correctness = normalise([one["score"] for one in group])
        sar = normalise([one["sar"] for one in group])
        for one, right, aligned in zip(group, correctness, sar, strict=True):
            assert one["reward"] == pytest.approx(right + 0.5 * aligned, abs=1e-4)


def test_the_terms_are_in_the_log(run: tuple[list[dict[str, Any]], Any]) -> None:
    rollouts, scalars = run
    for step in range(1, NUM_STEPS + 1):
        of_step = rollouts[NUM_GROUPS * SIZE * (step - 1) : NUM_GROUPS * SIZE * step]
        for name, field in (("term_correctness", "score"), ("term_sar", "sar")):
            expected = statistics.mean(one[field] for one in of_step)
            assert scalars[f"train/{name}"][step] == pytest.approx(expected, abs=1e-5)
        assert scalars["train/rollout/reward_mean"][step] == pytest.approx(0, abs=1e-5)
