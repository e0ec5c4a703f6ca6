"""Rewards for Molt (PyPI molt-rl, 0.2.1): an agent of one turn that asks a reward server.

    export PYTHONPATH=CHECKOUT REWARD_URL=http://127.0.0.1:5000/get_reward
    python -m molt.cli.train_rl_ray --train.agent_path CHECKOUT/recipes/adapters/molt.py \\
        --data.apply_chat_template --data.label_key label ...

The label is text, or JSON as text (docs/protocol.md). The run does not start if the server cannot
be reached or refuses the key. Later, Molt drops a rollout whose request failed in all its tries,
and counts it as `rollout/dropped/runner_error`.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from molt.agents import Env, Result, StepEnvRunner

from recipes.adapters.client import PATIENT_NUM_TRIES, RewardClient

# Requests of one rollout worker at a time. Molt uses asyncio's own threads for other things.
_MAX_REQUESTS = 32


class AgentRunner(StepEnvRunner):
    """Molt makes one in its own process, at the start of a run, and one in each rollout worker."""

    def __init__(self) -> None:
        """
        Raises:
            RewardError: the server cannot be reached, or refuses the key.
            ValueError: REWARD_URL is missing or wrong, or the server's reward compares rollouts.
        """
        url = os.environ.get("REWARD_URL", "")
        if not url:
            raise ValueError(
                "REWARD_URL is not set in the environment of the run and of Ray's workers: "
                "REWARD_URL=http://127.0.0.1:5000/get_reward"
            )
        RewardClient(url).check()
        if size := RewardClient(url).find_group_size():
            # A rollout that Molt drops leaves its siblings without a group.
            raise ValueError(
                f"the server's reward compares {size} rollouts of a prompt, and Molt sends each by "
                "itself, a limited number at a time; start the server without such terms"
            )
        client = RewardClient(url, num_tries=PATIENT_NUM_TRIES)
        threads = ThreadPoolExecutor(_MAX_REQUESTS, thread_name_prefix="reward")

        class RewardEnv(Env):
            """One episode, of one turn. Molt makes one for each rollout, without arguments."""

            async def step(self, state: dict[str, Any], **_: Any) -> Result:
                prompt = state["observation_text"]
                # Molt decodes both with special tokens.
                query = prompt + state["action_text"]
                (answer,) = await asyncio.get_running_loop().run_in_executor(
                    threads, client.ask, [query], [prompt], [state["label"]]
                )
                reward, score = answer.pop("reward"), answer.pop("score")
                return Result(reward=reward, score=score, info=answer)

        super().__init__(RewardEnv)

    async def execute(
        self, *arguments: Any, images: Any = None, tools: Any = None, **options: Any
    ) -> Any:
        """Generates and scores one rollout; see Molt's `Runner.execute`.

        Raises:
            RewardError: the server gave no reward.
            ValueError: the prompt has images or tools.
        """
        if images:
            raise ValueError("the prompt has images, and SAR is defined for text only")
        if tools:
            raise ValueError(
                "the prompt has tools, and SAR is defined for rollouts without; leave out "
                "--data.tools_key"
            )
        return await super().execute(*arguments, **options)
