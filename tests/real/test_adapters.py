"""The adapters and OpenRLHF's own client ask a real server about SmolLM2's rollouts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sar.prompts import DEFAULT_SYSTEM_PROMPT

ROOT = Path(__file__).parents[2]
QUESTION = "A box holds 6 eggs. How many eggs do 4 boxes hold?"
RESPONSE = "4 * 6 = 24.\nThe answer is 24.<|im_end|>"


@pytest.fixture(scope="module")
def rollout(make_rollout: Any) -> Any:
    return make_rollout(QUESTION, RESPONSE, "24", system=DEFAULT_SYSTEM_PROMPT)


@pytest.fixture(scope="module")
def expected(rollout: Any, reference: Any) -> dict[str, float]:
    """The reward of a right response, and its parts."""
    found: dict[str, float] = reference.compute(rollout, system=DEFAULT_SYSTEM_PROMPT)
    return {**found, "reward": 1 + 0.2 * found["sar"]}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Together with the server's threads, more would compete for few cores."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def test_verl(smollm2_server: Any, rollout: Any, expected: dict[str, float]) -> None:
    from recipes.adapters.verl import compute_score

    got = compute_score(
        data_source="gsm8k",
        solution_str=RESPONSE,
        ground_truth="24",
        extra_info={"prompt": rollout.prompt},
        url=f"{smollm2_server.url}/get_reward",
    )
    assert got["score"] == pytest.approx(expected["reward"], abs=1e-5)
    assert got["sar"] == pytest.approx(expected["sar"], abs=1e-5)
    assert (got["correctness"], got["template_mismatch"]) == (1, 0)


def test_trl(
    smollm2_server: Any, smollm2_tokenizer: Any, rollout: Any, expected: dict[str, float]
) -> None:
    """Called as GRPOTrainer calls it: messages, token ids, the completion without its end."""
    from recipes.adapters.trl import RemoteReward

    turns = [
        {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
        {"role": "user", "content": QUESTION},
    ]
    reward = RemoteReward(f"{smollm2_server.url}/get_reward", smollm2_tokenizer)
    metrics: dict[str, float] = {}
    got = reward(
        prompts=[turns, rollout.prompt],
        completions=[[{"role": "assistant", "content": RESPONSE.removesuffix("<|im_end|>")}]] * 2,
        completion_ids=[rollout.response_ids] * 2,
        label=["24", "25"],
        log_metric=metrics.__setitem__,
    )
    assert got == pytest.approx([expected["reward"], expected["reward"] - 1], abs=1e-5)
    assert metrics["template_mismatch"] == 0
    assert metrics["response_tokens"] == expected["response_tokens"]


def test_a_step_of_trls_own_trainer(
    smollm2_server: Any, smollm2: Path, smollm2_tokenizer: Any, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from recipes.adapters.trl import RemoteReward

    turns = [
        {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
        {"role": "user", "content": QUESTION},
    ]
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(smollm2),
        reward_funcs=[RemoteReward(f"{smollm2_server.url}/get_reward", smollm2_tokenizer)],
        args=GRPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", optim="sgd",
            save_strategy="no", logging_steps=1, max_steps=1, seed=1, disable_tqdm=True,
            per_device_train_batch_size=2, num_generations=2, max_completion_length=12,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_dict({"prompt": [turns], "label": ["24"]}),
        processing_class=smollm2_tokenizer,
    )  # fmt: skip
    trainer.train()
    (log,) = [log for log in trainer.state.log_history if "loss" in log]
    assert log["template_mismatch"] == 0
    assert 0 < log["response_tokens"] <= 12
    # Two responses differ, so that there is something to learn from.
    assert log["reward"] == pytest.approx(log["correctness"] + 0.2 * log["sar"], abs=1e-4)
    assert log["reward_std"] > 0


class Engine:
    """Has the `generate` of a rollout engine; answers each prompt with the same token ids."""

    def __init__(self, ids: list[int], make_output: Callable[[Any], Any]) -> None:
        self._ids = ids
        self._make_output = make_output
        self.prompts: list[list[int]] = []

    async def generate(self, token_ids: Any, *_: Any, **__: Any) -> Any:
        self.prompts.append(token_ids)
        output = SimpleNamespace(
            token_ids=list(self._ids), text="", finish_reason="stop", logprobs=None
        )
        return self._make_output(output)


def test_molt(
    smollm2_server: Any,
    smollm2_tokenizer: Any,
    rollout: Any,
    expected: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = pytest.importorskip("molt.agents.base", reason="molt-rl is not installed; see Makefile")
    monkeypatch.setenv("REWARD_URL", f"{smollm2_server.url}/get_reward")
    runner = base.load_agent_runner(str(ROOT / "recipes/adapters/molt.py"))

    def make_output(output: Any) -> Any:
        return SimpleNamespace(outputs=[output], prompt_routed_experts=None), 0

    execute = partial(
        runner.execute,
        prompt=rollout.prompt,
        sampling_params=SimpleNamespace(max_tokens=64, min_tokens=1, logprobs=None),
        max_length=1024,
        hf_tokenizer=smollm2_tokenizer,
        llm_engine=Engine(rollout.response_ids, make_output),
        tools=None,
    )
    got = asyncio.run(execute(label="24"))
    assert got.reward == pytest.approx(expected["reward"], abs=1e-5)
    assert got.scores == 1
    assert got.extra_logs["sar"] == pytest.approx(expected["sar"], abs=1e-5)


def test_openrlhfs_own_client(
    smollm2_server: Any, smollm2_tokenizer: Any, rollout: Any, expected: dict[str, float]
) -> None:
    agent = pytest.importorskip("openrlhf.utils.agent", reason="openrlhf is not installed")
    engine = Engine(rollout.response_ids, lambda output: SimpleNamespace(outputs=[output]))

    async def run() -> list[Any]:
        tasks = [
            agent.SingleTurnAgentExecutor(f"{smollm2_server.url}/get_reward").execute(
                rollout.prompt, label, SimpleNamespace(max_tokens=64, logprobs=None), 1024,
                smollm2_tokenizer, engine,
            )
            for label in ("24", "25", '{"answer": "24", "mode": "eval"}')
        ]  # fmt: skip
        return list(await asyncio.gather(*tasks))

    outputs = asyncio.run(run())
    assert engine.prompts == [rollout.prompt_ids] * 3
    rewards = [output["reward"][0] for output in outputs]
    assert rewards == pytest.approx([expected["reward"], expected["reward"] - 1, 1], abs=1e-5)
    assert [output["scores"][0] for output in outputs] == [1, 0, 1]
    for output in outputs:
        assert output["extra_logs"]["sar"][0] == pytest.approx(expected["sar"], abs=1e-5)
        assert output["extra_logs"]["response_tokens"] == [expected["response_tokens"]]
