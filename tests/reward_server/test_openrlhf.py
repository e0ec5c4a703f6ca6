"""Runs OpenRLHF's own code on the server's answers, from rollout to advantage.

`Experience` and the length penalties are imported. `SamplesGenerator` and the experience maker are
in modules that import ray and vllm, so these tests compile the needed functions from their source.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from openrlhf.trainer.ppo_utils import experience, length_penalty
from openrlhf.utils import agent

from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT

SAMPLES_PER_PROMPT = 4
KINDS = ("concise", "padded", "wrong_end", "unrelated")
NUM_ROLLOUTS = 3 * SAMPLES_PER_PROMPT
PAD_ID = 0


def _compile_upstream(module: str, name: str, **names: Any) -> Callable[..., Any]:
    """Compiles a function of OpenRLHF without importing its module; `names` become its globals."""
    package = importlib.util.find_spec("openrlhf")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / f"{module}.py").read_text()
    (found,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    found.decorator_list = []
    namespace = {"torch": torch, "Experience": experience.Experience, **names}
    annotations = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
    tree = ast.fix_missing_locations(ast.Module([annotations, found], []))
    exec(compile(tree, source, "exec"), namespace)
    function: Callable[..., Any] = namespace[name]
    return function


@pytest.fixture(scope="module")
def outputs(server: Any, bundled_tokenizer: Any) -> list[dict[str, Any]]:
    """Executor outputs: three prompts, four responses each, one cut off and one empty."""

    class Engine:
        def __init__(self, ids: list[int]) -> None:
            self._ids = ids

        async def generate(self, *_: Any, **__: Any) -> Any:
            finished = self._ids[-1:] == [bundled_tokenizer.eos_token_id]
            logprobs = [{i: SimpleNamespace(logprob=-0.5)} for i in self._ids]
            return SimpleNamespace(
                outputs=[
                    SimpleNamespace(
                        token_ids=self._ids,
                        finish_reason="stop" if finished else "length",
                        logprobs=logprobs,
                    )
                ]
            )

    async def run() -> list[dict[str, Any]]:
        tasks: list[Any] = []
        for problem in itertools.islice(generate(seed=77, held_out=True), 3):
            for kind in KINDS:
                ids = bundled_tokenizer.encode(getattr(problem, kind) + "<|im_end|>")
                if len(tasks) == 1:
                    ids = ids[:9]
                if len(tasks) == 3:
                    ids = []
                prompt = bundled_tokenizer.apply_chat_template(
                    [
                        {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
                        {"role": "user", "content": problem.question},
                    ],
                    tokenize=False,
                    add_generation_prompt=True,
                )
                tasks.append(
                    agent.SingleTurnAgentExecutor(server.url + "/get_reward").execute(
                        prompt,
                        str(problem.answer),
                        SimpleNamespace(max_tokens=300, logprobs=1),
                        1024,
                        bundled_tokenizer,
                        Engine(ids),
                    )
                )
        return list(await asyncio.gather(*tasks))

    return asyncio.run(run())


@pytest.fixture
def experiences(outputs: list[dict[str, Any]]) -> list[Any]:
    process = _compile_upstream(
        "trainer/ppo_utils/samples_generator", "_process_response_into_experience"
    )
    made = [process(None, output, max_len=1024) for output in outputs]
    for index, one in enumerate(made):
        one.index = [index]
    return made


def _values(outputs: list[dict[str, Any]], name: str) -> list[float]:
    if name in ("reward", "scores"):
        return [output[name][0] for output in outputs]
    return [output["extra_logs"][name][0] for output in outputs]


def test_outputs_become_one_experience(outputs: list[Any], experiences: list[Any]) -> None:
    batch = experience.Experience.concat_experiences(experiences, PAD_ID)
    width = max(len(output["observation_tokens"]) for output in outputs)
    assert batch.sequences.shape == (NUM_ROLLOUTS, width)
    assert batch.action_mask.shape == (NUM_ROLLOUTS, width - 1)
    assert batch.rewards.numel() == NUM_ROLLOUTS
    assert batch.rewards.is_floating_point()
    assert batch.rewards.flatten().tolist() == pytest.approx(_values(outputs, "reward"))
    assert batch.scores.flatten().tolist() == _values(outputs, "scores")
    assert batch.scores.flatten().tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert batch.truncated.tolist() == [index in (1, 3) for index in range(NUM_ROLLOUTS)]
    tokens = _values(outputs, "response_tokens")
    assert batch.response_length.tolist() == tokens
    assert batch.action_mask.sum(1).tolist() == tokens
    # SamplesGenerator reads scores like this for dynamic filtering.
    assert [e.scores[0].item() for e in experiences] == _values(outputs, "scores")
    logged = {name for output in outputs for name in output["extra_logs"]}
    assert logged < set(batch.info)
    for name in logged:
        assert batch.info[name].numel() == NUM_ROLLOUTS
        assert torch.isfinite(batch.info[name].float()).all(), name
        assert batch.info[name].flatten().tolist() == pytest.approx(_values(outputs, name))


def test_an_experience_can_be_split_and_batched_again(
    outputs: list[Any], experiences: list[Any]
) -> None:
    whole = experience.Experience.concat_experiences(experiences, PAD_ID)
    items = experience.split_experience_batch(whole)
    assert len(items) == NUM_ROLLOUTS
    items = experience.remove_padding_in_sequences(items)
    batch = experience.make_experience_batch(items[::-1])
    assert batch.rewards.flatten().tolist() == pytest.approx(_values(outputs, "reward")[::-1])
    assert batch.scores.flatten().tolist() == _values(outputs, "scores")[::-1]
    for name in outputs[0]["extra_logs"]:
        # ppo_actor.training_step reads numbers like this for its log.
        logged = torch.tensor(batch.info[name], dtype=torch.float)
        assert logged.flatten().tolist() == pytest.approx(_values(outputs, name)[::-1])

    resources = SimpleNamespace(
        actor=SimpleNamespace(num_nodes=1, num_gpus_per_node=2),
        ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
    )
    halves = experience.balance_experiences([whole], resources)
    rewards = [reward for half in halves for reward in half.rewards.flatten().tolist()]
    assert sorted(rewards) == pytest.approx(sorted(_values(outputs, "reward")))


@pytest.mark.parametrize("joined", [False, True])
def test_overlong_and_stop_properly_penalties_apply(
    outputs: list[Any], experiences: list[Any], joined: bool
) -> None:
    if joined:
        experiences = [experience.Experience.concat_experiences(experiences, PAD_ID)]
    max_new, buffer, factor, coefficient = 60, 40, 0.5, 0.25
    arguments = SimpleNamespace(
        reward=SimpleNamespace(
            overlong_buffer_len=buffer,
            overlong_penalty_factor=factor,
            stop_properly_penalty_coef=coefficient,
        ),
        rollout=SimpleNamespace(max_new_tokens=max_new),
    )
    length_penalty.apply_length_penalties(experiences, arguments)

    expected = []
    for output in outputs:
        exceeded = min(output["extra_logs"]["response_tokens"][0] - (max_new - buffer), buffer)
        reward = output["reward"][0] - max(0, exceeded) / buffer * factor
        expected.append(reward * coefficient if output["truncated"] else reward)
    assert expected != pytest.approx(_values(outputs, "reward"))
    for name in ("rewards", "info"):
        found = [e.info["reward"] if name == "info" else e.rewards for e in experiences]
        assert torch.cat(found).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_a_negative_stop_coefficient_replaces_the_reward(
    outputs: list[Any], experiences: list[Any]
) -> None:
    assert length_penalty.apply_stop_properly_penalty(experiences, -0.5) == 2
    got = [e.rewards.item() for e in experiences]
    rewards = _values(outputs, "reward")
    assert got == pytest.approx([-0.5 if i in (1, 3) else r for i, r in enumerate(rewards)])


@pytest.mark.parametrize("estimator", ["dr_grpo", "group_norm", "rloo"])
def test_advantages_are_computed_from_the_rewards(
    outputs: list[Any], experiences: list[Any], estimator: str
) -> None:
    compute_reward = _compile_upstream("models/utils", "compute_reward")
    advantages = _compile_upstream(
        "trainer/ppo_utils/experience_maker",
        "compute_advantages_and_returns",
        itertools=itertools,
        apply_length_penalties=length_penalty.apply_length_penalties,
        compute_reward=compute_reward,
    )
    cumulative = _compile_upstream("trainer/ppo_utils/experience_maker", "get_cumulative_returns")
    maker = SimpleNamespace(
        strategy=SimpleNamespace(
            args=SimpleNamespace(
                reward=SimpleNamespace(clip_range=None),
                rollout=SimpleNamespace(n_samples_per_prompt=SAMPLES_PER_PROMPT),
                algo=SimpleNamespace(
                    advantage=SimpleNamespace(
                        estimator=estimator, gamma=1.0, no_std_norm=True, lambd=1.0
                    )
                ),
            )
        ),
        kl_ctl=SimpleNamespace(value=0.0),
        advantage_estimator=estimator,
        get_cumulative_returns=lambda *arguments: cumulative(None, *arguments),
    )
    halves = [
        experience.Experience.concat_experiences(half, PAD_ID)
        for half in (experiences[:5], experiences[5:])
    ]
    for half in halves:
        half.kl = torch.zeros(half.action_mask.shape)
    done = advantages(maker, halves)

    rewards = torch.tensor(_values(outputs, "reward")).reshape(-1, SAMPLES_PER_PROMPT)
    expected = rewards - rewards.mean(1, keepdim=True)
    if estimator == "group_norm":
        expected = expected / (rewards.std(1, keepdim=True) + 1e-9)
    if estimator == "rloo":
        expected = expected * SAMPLES_PER_PROMPT / (SAMPLES_PER_PROMPT - 1)
    got = [
        row[mask.bool()]
        for one in done
        for row, mask in zip(one.advantages, one.action_mask, strict=True)
    ]
    for row, value in zip(got, expected.flatten().tolist(), strict=True):
        assert math.isfinite(value)
        assert row.tolist() == pytest.approx([value] * len(row), abs=1e-5)
