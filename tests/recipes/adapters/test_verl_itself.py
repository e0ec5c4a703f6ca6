"""The adapter inside verl 0.9.1: its configuration, loader, agent loop and reward workers.

    make test-verl

It runs in an environment of its own, because verl needs another antlr4 than math-verify here.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed; `make test-verl` has it")

FILE = Path(__file__).parents[3] / "recipes/adapters/verl.py"
MANAGER = (
    "reward.reward_manager.source=importlib",
    "reward.reward_manager.name=RewardManager",
    f"reward.reward_manager.module.path={FILE}",
)
FUNCTION = (f"reward.custom_reward_function.path={FILE}",)

Load = Callable[..., Any]


def compose(*overrides: str) -> Any:
    """What `python -m verl.trainer.main_ppo` makes of these arguments."""
    from hydra import compose, initialize_config_module
    from verl.experimental.reward_loop.reward_loop import migrate_legacy_reward_impl

    with initialize_config_module("verl.trainer.config", version_base=None):
        return migrate_legacy_reward_impl(compose("ppo_trainer", overrides=list(overrides)))


@pytest.fixture
def make_worker(bundled_model_path: Path) -> Load:
    """Makes a reward worker of verl's, in this process."""

    def make(*overrides: str) -> Any:
        from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

        model = f"actor_rollout_ref.model.path={bundled_model_path}"
        return RewardLoopWorker(compose(model, *overrides))

    return make


def score(worker: Any, tokenizer: Any, label: str, text: str, num_turns: int = 2) -> Any:
    """verl's agent loop passes one rollout to a reward worker. Returns the agent loop's output."""
    from verl.experimental.agent_loop.agent_loop import (
        AgentLoopMetrics,
        AgentLoopOutput,
        AgentLoopWorker,
    )

    messages = [{"role": "user", "content": "What is 3 + 4?"}]
    response_ids = tokenizer.encode(text)
    output = AgentLoopOutput(
        prompt_ids=tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"],
        response_ids=response_ids,
        response_mask=[1] * len(response_ids),
        num_turns=num_turns,
        metrics=AgentLoopMetrics(),
    )
    loop = object.__new__(getattr(AgentLoopWorker, "__ray_actor_class__", AgentLoopWorker))
    loop.processor, loop.mm_processor_kwargs = None, {}
    remote = SimpleNamespace(remote=worker.compute_score)
    loop.reward_loop_worker_handles = [SimpleNamespace(compute_score=remote)]
    fields = {"data_source": "gsm8k", "reward_model": {"ground_truth": label}, "extra_info": {}}
    worker.loop.run_until_complete(loop._compute_score([output], fields))
    return output


def test_a_worker_gets_the_servers_reward(
    make_worker: Load, server: Any, bundled_tokenizer: Any
) -> None:
    url = server.url + "/get_reward"
    worker = make_worker(*MANAGER, f"+reward.reward_kwargs.url={url}")
    text = "3 + 4 = 7. Answer: 7" + bundled_tokenizer.eos_token
    for label in ("7", "8", '{"answer": "7", "mode": "eval"}'):
        output = score(worker, bundled_tokenizer, label, text)
        prompt = bundled_tokenizer.decode(output.prompt_ids)
        body = {"query": [prompt + text], "prompts": [prompt], "labels": [label]}
        _, answer = server.request("/get_reward", body)
        assert output.reward_score == pytest.approx(answer["rewards"][0], abs=1e-5)
        fields = output.extra_fields["reward_extra_info"]
        assert fields["response_tokens"] == len(output.response_ids)
        assert set(fields) == set(answer["extra_logs"])


def test_a_batch_with_padding(make_worker: Load, server: Any, bundled_tokenizer: Any) -> None:
    """The batch that the older trainer passes, with rollouts of several lengths."""
    import numpy as np
    import torch
    from verl import DataProto

    worker = make_worker(*MANAGER, f"+reward.reward_kwargs.url={server.url}/get_reward")
    texts = ["7", "3 + 4 = 7. Answer: 7", "The sum of three and four. Answer: 8"]
    prompts = [[1] * num + bundled_tokenizer.encode("Q") for num in (0, 5, 2)]
    responses = [
        [*bundled_tokenizer.encode(text), bundled_tokenizer.eos_token_id] for text in texts
    ]

    def pad(rows: list[list[int]], left: bool) -> tuple[Any, Any]:
        length = max(map(len, rows)) + 3
        pads = [[bundled_tokenizer.pad_token_id] * (length - len(row)) for row in rows]
        marks = [[0] * len(one) for one in pads]
        ones = [[1] * len(row) for row in rows]
        join = [(p + r if left else r + p) for p, r in zip(pads, rows, strict=True)]
        mask = [(p + r if left else r + p) for p, r in zip(marks, ones, strict=True)]
        return torch.tensor(join), torch.tensor(mask)

    prompts_BT, prompt_mask_BT = pad(prompts, left=True)
    responses_BT, response_mask_BT = pad(responses, left=False)
    data = DataProto.from_dict(
        {
            "prompts": prompts_BT,
            "responses": responses_BT,
            "attention_mask": torch.cat([prompt_mask_BT, response_mask_BT], dim=1),
        },
        {"reward_model": np.array([{"ground_truth": "7"}] * 3, dtype=object)},
    )
    outputs = worker.loop.run_until_complete(worker.compute_score_batch(data))
    fields = [one["reward_extra_info"] for one in outputs]
    assert [one["response_tokens"] for one in fields] == [len(ids) for ids in responses]
    assert [one["correctness"] for one in fields] == [1, 1, 0]


@pytest.mark.parametrize("fault", [0, 401, 413, 500])
def test_a_failure_is_no_reward(
    make_worker: Load, flaky: Any, bundled_tokenizer: Any, fault: int
) -> None:
    options = (f"+reward.reward_kwargs.url={flaky.url}", "+reward.reward_kwargs.num_tries=1")
    worker = make_worker(*MANAGER, *options)
    flaky.refused = {"7": fault}
    with pytest.raises(RuntimeError, match="no reward: http://"):
        score(worker, bundled_tokenizer, "7", "7")


@pytest.mark.parametrize("through", ["manager", "function"])
def test_a_rollout_with_tools_is_refused(
    make_worker: Load, server: Any, bundled_tokenizer: Any, through: str
) -> None:
    url = f"url={server.url}/get_reward"
    worker = make_worker(
        *(
            (*MANAGER, f"+reward.reward_kwargs.{url}")
            if through == "manager"
            else (*FUNCTION, f"+reward.custom_reward_function.reward_kwargs.{url}")
        )
    )
    with pytest.raises(ValueError, match="the rollout has 4 turns"):
        score(worker, bundled_tokenizer, "7", "7", num_turns=4)


def test_the_rate_limited_manager_is_refused(make_worker: Load, server: Any) -> None:
    """Facts: that manager returns 0 where the function raises, so the function may not load."""
    url = f"+reward.custom_reward_function.reward_kwargs.url={server.url}/get_reward"
    with pytest.raises(RuntimeError, match="Error loading module") as error:
        make_worker(*FUNCTION, url, "reward.reward_manager.name=rate_limited")
    cause = str(error.value.__cause__)
    assert cause.startswith("reward.reward_manager.name=rate_limited: it makes rewards of 0")
    assert "\n" not in cause
    for name in ("naive", "dapo"):
        make_worker(*FUNCTION, url, f"reward.reward_manager.name={name}")


@pytest.mark.slow
def test_an_error_passes_through_ray(server: Any, bundled_model_path: Path) -> None:
    """The trainer's process need not have this repository, and gets no reward of 0 either."""
    import ray
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    config = compose(
        f"actor_rollout_ref.model.path={bundled_model_path}",
        *MANAGER,
        f"+reward.reward_kwargs.url={server.url}/get_reward",
    )
    environment = {"env_vars": {"PYTHONPATH": os.fspath(FILE.parents[2])}}
    ray.init(num_cpus=1, include_dashboard=False, runtime_env=environment)
    try:
        worker = ray.remote(RewardLoopWorker).remote(config)
        with pytest.raises(RuntimeError, match="no reward: http://"):
            ray.get(worker.compute_score.remote(make_data(7)))
        answer = ray.get(worker.compute_score.remote(make_data("7")))
        assert answer["reward_extra_info"]["correctness"] == 0
    finally:
        ray.shutdown()


def make_data(label: Any) -> Any:
    import numpy as np
    import torch
    from verl import DataProto

    ids = torch.tensor([[random.randrange(10, 90) for _ in range(4)]])
    return DataProto.from_dict(
        {"prompts": ids[:, :2], "responses": ids[:, 2:], "attention_mask": torch.ones_like(ids)},
        {"reward_model": np.array([{"ground_truth": label}], dtype=object)},
    )
