"""Rewards for verl (0.9.1): a reward manager, and a reward function that needs no manager.

The checkout must be in the workers' PYTHONPATH. The manager scores what the policy read and wrote,
token by token:

    reward.reward_manager.source=importlib
    reward.reward_manager.name=RewardManager
    reward.reward_manager.module.path=CHECKOUT/recipes/adapters/verl.py
    +reward.reward_kwargs.url=http://127.0.0.1:5000/get_reward

The label is reward_model.ground_truth: text, or JSON as text (docs/protocol.md). recipes/README.md
says what verl does with a rollout whose request failed.

The function is for verl's own managers, except `rate_limited`, which turns errors into rewards of
0. verl gives it neither the prompt nor the special tokens, so the data must have the prompt's text
in extra_info.prompt:

    reward.custom_reward_function.path=CHECKOUT/recipes/adapters/verl.py
    +reward.custom_reward_function.reward_kwargs.url=http://127.0.0.1:5000/get_reward

Departure from the paper, in the function only: perplexities leave out the end-of-sequence token.

Neither returns `acc`: verl's validation counts a rollout that failed as an `acc` of 0.
"""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from recipes.adapters.client import PATIENT_NUM_TRIES, RewardClient, RewardError

# Requests of one reward worker at a time, unless set; verl starts eight workers.
_MAX_REQUESTS = 32
_NUM_TURNS = 2  # how verl counts a prompt and one response

_client = lru_cache(RewardClient)


class RewardManager:
    """A reward manager for `source=importlib`. Each of verl's reward workers makes one.

    It has the methods that verl calls, and no base class, so this file needs nothing of verl.
    Source: verl 0.9.1, verl/experimental/reward_loop.
    """

    def __init__(self, config: Any, tokenizer: Any, **_: Any) -> None:
        """
        Args:
            config: verl's. reward.reward_kwargs has `url`, `max_requests` and the options of
                RewardClient.
            tokenizer: the policy's.
        Raises:
            RewardError: the server cannot be reached, or refuses the key.
            ValueError: a setting is missing or wrong, or verl would use something else for rewards.
        """
        options = dict(config.reward.get("reward_kwargs") or {})
        url = options.pop("url", "")
        if not url:
            raise ValueError("no url: set +reward.reward_kwargs.url")
        if config.reward.reward_model.enable:
            raise ValueError(
                "reward.reward_model.enable=True: verl would ask that model instead of the reward "
                "server; set it to False"
            )
        if config.reward.custom_reward_function.path:
            raise ValueError(
                "reward.custom_reward_function.path is set, and this reward manager calls no "
                "function; leave it out"
            )
        _refuse_agents(config.actor_rollout_ref.rollout)
        self._tokenizer = tokenizer
        max_requests = options.pop("max_requests", None)
        client = RewardClient(url, **options)
        client.check()
        group_size = client.find_group_size()
        if group_size and max_requests is None:
            raise ValueError(
                f"the server's reward compares {group_size} rollouts of a prompt, and verl sends "
                "them one by one: those that wait must not keep their siblings from being sent; "
                "set +reward.reward_kwargs.max_requests=N to the rollouts of a step"
            )
        if max_requests is not None and max_requests < 1:
            raise ValueError(f"max_requests={max_requests}: at least one request is needed")
        self._client = RewardClient(url, **{"num_tries": PATIENT_NUM_TRIES, **options})
        self._threads = ThreadPoolExecutor(
            max_requests or _MAX_REQUESTS, thread_name_prefix="reward"
        )

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Asks for the reward of one rollout.

        Args:
            data: verl's DataProto with one row.
        Returns:
            `reward_score`: the reward. `reward_extra_info`: the server's other fields.
        Raises:
            RuntimeError: the server gave no reward. Not a RewardError, so that processes without
                this repository can unpickle it.
            ValueError: the rollout has several turns.
        """
        if len(data) != 1:
            raise ValueError(
                f"the agent loop gives {len(data)} outputs for a prompt, and SAR is defined for one"
            )
        row = data[0]
        _refuse_turns(row.non_tensor_batch.get("__num_turns__", _NUM_TURNS))
        prompts, responses = row.batch["prompts"], row.batch["responses"]
        is_token = row.batch["attention_mask"].bool()
        prompt_ids = prompts[is_token[: len(prompts)]].tolist()
        response_ids = responses[is_token[len(prompts) :]].tolist()
        label = row.non_tensor_batch["reward_model"]["ground_truth"]
        answer = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._ask, prompt_ids, response_ids, label
        )
        reward = answer.pop("reward")
        del answer["score"]  # `correctness` equals it
        return {"reward_score": reward, "reward_extra_info": answer}

    def _ask(self, prompt_ids: list[int], response_ids: list[int], label: Any) -> dict[str, float]:
        prompt = self._tokenizer.decode(prompt_ids, skip_special_tokens=False)
        query = self._tokenizer.decode([*prompt_ids, *response_ids], skip_special_tokens=False)
        try:
            (answer,) = self._client.ask([query], [prompt], [label])
        except RewardError as error:
            raise RuntimeError(f"no reward: {error}") from error
        return answer


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    url: str = "",
    num_tries: int = 5,
    **_: Any,
) -> dict[str, float]:
    """Asks for the reward of one response.

    Args:
        data_source: verl's name of the data set, shown in errors. The label says how to grade.
        solution_str: the response.
        ground_truth: the label.
        extra_info: the row's `extra_info`, with `prompt`.
        url: the reward server's, from reward_kwargs.
        num_tries: how often to send the request, from reward_kwargs.
    Returns:
        `score`: the reward, which verl trains on. The server's other fields are logged.
    Raises:
        RewardError: the server gave no reward.
        ValueError: the prompt or the URL is missing, or the response has several turns.
    Source: verl 0.9.1, verl/experimental/reward_loop/reward_manager/naive.py, run_single.
    """
    if not url:
        raise ValueError("no url: set reward.custom_reward_function.reward_kwargs.url")
    extra_info = extra_info or {}
    _refuse_turns(extra_info.get("num_turns") or _NUM_TURNS)
    prompt = extra_info.get("prompt")
    if not isinstance(prompt, str):
        raise ValueError(
            f"extra_info['prompt'] of a row of {data_source!r} is {type(prompt).__name__}, not the "
            "prompt's text; recipes/adapters/verl.py says how to prepare the data"
        )
    (answer,) = _client(url, num_tries=num_tries).ask(
        [prompt + solution_str], [prompt], [ground_truth]
    )
    reward = answer.pop("reward")
    del answer["score"]  # `correctness` equals it
    # No "reward": verl's validation adds that column itself, and fails on a second one.
    return {"score": reward, **answer}


def _refuse_turns(num_turns: int) -> None:
    if num_turns > _NUM_TURNS:
        raise ValueError(
            f"the rollout has {num_turns} turns, and its response contains what tools or users "
            "said; SAR is defined for one response: use verl's single_turn_agent"
        )


def _refuse_agents(rollout: Any) -> None:
    """Ends the run at its start, because a rollout that is refused later is only left out.

    What remains would be the rollouts that called no tool.

    Raises:
        ValueError: the configuration lets rollouts have several turns.
    """
    loop = rollout.agent.default_agent_loop
    if loop != "single_turn_agent":
        raise ValueError(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={loop}: SAR is defined for one "
            "response; set it to single_turn_agent"
        )
    for name in ("tool_config_path", "function_tool_path"):
        if path := rollout.multi_turn.get(name):
            raise ValueError(
                f"actor_rollout_ref.rollout.multi_turn.{name}={path}: SAR is defined for rollouts "
                "without tools; leave it out"
            )


def _refuse_rate_limits() -> None:
    """Ends the run if the reward function is for verl's rate-limited reward manager.

    That manager makes a reward of 0 of each error and each late answer, so the function cannot end
    the run later. While verl loads this file, the loader's configuration names the manager.
    """
    for frame in inspect.stack(context=0):
        config = frame.frame.f_locals.get("config")
        if frame.function == "load_reward_manager" and config is not None:
            name = config.reward.reward_manager.name
            if name in ("rate_limited", "RateLimitedRewardManager"):
                raise ValueError(
                    f"reward.reward_manager.name={name}: it makes rewards of 0 of errors and late "
                    "answers; use the RewardManager of recipes/adapters/verl.py, or naive"
                )


_refuse_rate_limits()
