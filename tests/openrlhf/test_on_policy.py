"""PPO with ON_POLICY=1: three steps at a high learning rate, each scored with its own weights.

The agent is the recipes' (recording_agent.py), and the engine is vLLM in OpenRLHF's worker.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sar.prompts import DEFAULT_SYSTEM_PROMPT

NUM_ROLLOUTS, NUM_PROBLEMS = 16, 12  # of a step, and of the evaluation after the last one
STEPS = (1, 2, 3)
TOLERANCE = 2e-3  # of SAR, over a step's rollouts: vLLM computes in bfloat16
SAR_WEIGHT = 0.3


@dataclass
class OnPolicy:
    """What the run left."""

    output: Path
    scalars: dict[str, dict[int, float]]
    steps: dict[int, list[dict[str, Any]]]
    """Its training rollouts by step. OpenRLHF generates one step after the other."""
    evaluated: list[dict[str, Any]]


@pytest.fixture(scope="module")
def on_policy(
    tmp_path_factory: pytest.TempPathFactory, server: Any, train: Any, read_scalars: Any
) -> OnPolicy:
    folder = tmp_path_factory.mktemp("on-policy")
    output, rollouts = folder / "run", folder / "rollouts.jsonl"
    run = train(
        "ppo", output, server.url, "--actor.adam.lr", "1e-3",
        "--train.agent_func_path", str(Path(__file__).with_name("recording_agent.py")),
        ON_POLICY="1", SAR_WEIGHT=str(SAR_WEIGHT), EVAL_STEPS="3", ROLLOUTS_FILE=str(rollouts),
    )  # fmt: skip
    assert run.wait() == 0, run.tail()
    records = [json.loads(line) for line in rollouts.read_text().splitlines()]
    training = [record for record in records if record["mode"] == "train"]
    assert len(training) == NUM_ROLLOUTS * len(STEPS)
    return OnPolicy(
        output,
        read_scalars(output),
        {step: training[NUM_ROLLOUTS * (step - 1) : NUM_ROLLOUTS * step] for step in STEPS},
        [record for record in records if record["mode"] == "eval"],
    )


@pytest.fixture(scope="module")
def weights(on_policy: OnPolicy, bundled_model_path: Path) -> dict[int, Path]:
    """The weights that write and score the rollouts of each step: those of the step before."""
    checkpoints = on_policy.output / "checkpoints"
    return {1: bundled_model_path, 2: checkpoints / "global_step1_hf",
            3: checkpoints / "global_step2_hf"}  # fmt: skip


@cache
def load(folder: Path) -> Any:
    """The model as vLLM has it: its weights are bfloat16. It computes in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).float().eval()


def mean_nll(model: Any, context: list[int], response: list[int]) -> float:
    with torch.inference_mode():
        logits_TV = model(torch.tensor([context + response])).logits[0, len(context) - 1 : -1]
    logprobs_T = logits_TV.log_softmax(-1)[range(len(response)), response]
    return -float(logprobs_T.mean())


def compute_sar(model: Any, tokenizer: Any, rollouts: list[dict[str, Any]]) -> list[float]:
    """SAR of each rollout by its definition, from token ids, without our code."""
    turns = [{"role": "system", "content": DEFAULT_SYSTEM_PROMPT}, {"role": "user", "content": ""}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    empty_question = tokenizer(text, add_special_tokens=False)["input_ids"]
    values = []
    for rollout in rollouts:
        ids = rollout["response_ids"]
        nll_qa, nll_a = (
            mean_nll(model, context, ids) for context in (rollout["prompt_ids"], empty_question)
        )
        values.append(max(-1.0, 1 - math.exp(nll_qa - nll_a)))
    return values


@pytest.mark.parametrize("step", STEPS)
def test_sar_is_that_of_the_steps_own_weights(
    step: int, on_policy: OnPolicy, weights: dict[int, Path], bundled_tokenizer: Any
) -> None:
    rollouts = on_policy.steps[step]
    seen = [rollout["sar"] for rollout in rollouts]
    logged = on_policy.scalars["train/sar"][step]
    assert logged == pytest.approx(statistics.mean(seen), abs=1e-5)
    off = {}
    for other, folder in weights.items():
        computed = compute_sar(load(folder), bundled_tokenizer, rollouts)
        # Of each rollout: differences of both signs would cancel out in a mean of the step.
        off[other] = statistics.mean(abs(a - b) for a, b in zip(seen, computed, strict=True))
        if other == step:
            assert abs(statistics.mean(computed) - logged) < TOLERANCE
    shown = {other: round(value, 5) for other, value in off.items()}
    print(f"\nstep {step}: SAR {logged:.4f}; off with the weights of steps: {shown}")
    own = off.pop(step)
    assert own < TOLERANCE
    assert min(off.values()) > 4 * own


def test_generation_gives_what_a_prefill_pass_gives(on_policy: OnPolicy) -> None:
    rollouts = [rollout for step in STEPS for rollout in on_policy.steps[step]]
    # One call writes the response, one scores it after the empty-question prompt.
    assert {rollout["num_calls"] for rollout in rollouts} == {2}
    differences = [math.log(r["ppl_qa"]) - r["prefill_nll_qa"] for r in rollouts]
    mean, worst = statistics.mean(differences), max(map(abs, differences))
    print(f"\nmean NLL, generation against prefill, bfloat16: mean {mean:.1e}, worst {worst:.1e}")
    assert abs(mean) < 2e-3
    assert worst < 0.03


def test_rewards_are_correctness_and_the_policys_sar(on_policy: OnPolicy) -> None:
    for step, rollouts in on_policy.steps.items():
        for one in rollouts:
            assert one["reward"] == pytest.approx(one["score"] + SAR_WEIGHT * one["sar"])
        scalars = {name: values.get(step) for name, values in on_policy.scalars.items()}
        for name, field in (("rollout/reward_mean", "reward"), ("correctness", "score")):
            expected = statistics.mean(one[field] for one in rollouts)
            assert scalars[f"train/{name}"] == pytest.approx(expected, abs=1e-5)


def test_evaluation_is_correctness(on_policy: OnPolicy, bundled_tokenizer: Any) -> None:
    assert len(on_policy.evaluated) == NUM_PROBLEMS
    assert all(one["reward"] == one["score"] for one in on_policy.evaluated)
    accuracy = statistics.mean(one["score"] for one in on_policy.evaluated)
    assert on_policy.scalars["eval/eval_demo_pass1"] == {3: pytest.approx(accuracy)}


def test_the_critic_learns(on_policy: OnPolicy) -> None:
    assert set(on_policy.scalars["train/critic_loss"]) == set(STEPS)
    assert all(value > 0 for value in on_policy.scalars["train/critic_loss"].values())
    assert (on_policy.output / "checkpoints/_critic/latest").read_text() == "global_step3"
