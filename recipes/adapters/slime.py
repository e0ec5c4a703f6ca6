"""Rewards for slime and miles when the reward compares the rollouts of a prompt.

    python train.py ... --group-rm --custom-rm-path recipes.adapters.slime.compute_rewards \\
        --rm-url http://127.0.0.1:5000/get_reward --reward-key reward

All rollouts of a prompt go to the server in one request. Without `--group-rm` both trainers send
each rollout by itself, over at most 64 connections: a group that waits for its siblings could keep
them from being sent, so the server refuses such requests. Other rewards need no adapter (POST /rm).

Source: slime 624b824 and miles 31f1ca9, rollout/rm_hub/__init__.py, `batched_async_rm`.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

from recipes.adapters.client import PATIENT_NUM_TRIES, RewardClient

_client = lru_cache(RewardClient)


async def compute_rewards(args: Any, samples: Any, **_: Any) -> list[dict[str, float]]:
    """Asks for the rewards of one prompt's rollouts.

    Args:
        args: the trainer's. `rm_url` is the server's /get_reward.
        samples: with `prompt`, `response` and `label`.
    Returns:
        For each rollout, the fields of the server's answer. `--reward-key` names the one to train
        on.
    Raises:
        RewardError: the server gave no reward, which ends the run.
        ValueError: the trainer sends single rollouts, or a prompt is not text.
    """
    if not isinstance(samples, list):
        raise ValueError(
            "got a single rollout, and the reward compares rollouts: train with --group-rm"
        )
    for sample in samples:
        if not isinstance(sample.prompt, str):
            raise ValueError(
                f"a prompt is {type(sample.prompt).__name__}, not text: train with "
                "--apply-chat-template"
            )
    prompts = [sample.prompt for sample in samples]
    queries = [sample.prompt + sample.response for sample in samples]
    client = _client(args.rm_url, num_tries=PATIENT_NUM_TRIES)
    return await asyncio.to_thread(
        client.ask, queries, prompts, [sample.label for sample in samples]
    )
