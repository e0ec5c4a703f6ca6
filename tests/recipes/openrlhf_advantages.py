"""Runs OpenRLHF's own `compute_advantages_and_returns` on given rewards.

JSON on stdin: `flags` of the launcher, and `batches`, each with the `rewards` and response
`lengths` of its rollouts, prompt by prompt. JSON on stdout: for each batch, the advantages of the
tokens of every rollout. The arguments are what OpenRLHF's launcher makes of the flags
(openrlhf_arguments.py). Modules that are not installed have stand-ins; none of them computes
anything here.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from types import SimpleNamespace
from typing import Any

import openrlhf_arguments  # type: ignore[import-not-found, unused-ignore]
import torch

ROLLOUTS_PER_EXPERIENCE = 5  # shares no divisor with the groups, as dynamic batches do


def make_namespace(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: make_namespace(inner) for name, inner in value.items()})
    return value


def make_experience(index: list[int], rewards: list[float], lengths: list[int]) -> Any:
    """Rollouts with prompts of different lengths in front, as packed batches have them."""
    from openrlhf.trainer.ppo_utils.experience import Experience

    width = max(length + 2 + row % 3 for row, length in enumerate(lengths))
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        start = 1 + row % 3
        mask[row, start : start + length] = 1
    return Experience(
        index=index,
        action_mask=mask,
        kl=torch.zeros(mask.shape),
        rewards=torch.tensor(rewards, dtype=torch.float32),
        response_length=torch.tensor(lengths),
        truncated=torch.zeros(len(lengths), dtype=torch.bool),
        info={"reward": torch.tensor(rewards)},
    )


def compute(args: Any, rewards: list[float], lengths: list[int]) -> list[list[float]]:
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    maker: Any = object.__new__(RemoteExperienceMaker)
    maker.strategy = SimpleNamespace(args=args)
    maker.advantage_estimator = args.algo.advantage.estimator
    maker.kl_ctl = SimpleNamespace(value=args.algo.kl.init_coef)
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(0)).tolist()
    experiences = [
        make_experience(index, [rewards[n] for n in index], [lengths[n] for n in index])
        for index in (
            order[start : start + ROLLOUTS_PER_EXPERIENCE]
            for start in range(0, len(order), ROLLOUTS_PER_EXPERIENCE)
        )
    ]
    advantages: dict[int, list[float]] = {}
    for experience in maker.compute_advantages_and_returns(experiences):
        for row, number in enumerate(experience.index):
            of_tokens = experience.advantages[row][experience.action_mask[row].bool()]
            advantages[number] = of_tokens.tolist()
    return [advantages[number] for number in range(len(rewards))]


def main() -> None:
    given = json.load(sys.stdin)
    args = make_namespace(openrlhf_arguments.run(given["flags"])["arguments"])
    json.dump(
        [compute(args, one["rewards"], one["lengths"]) for one in given["batches"]], sys.stdout
    )


if __name__ == "__main__":
    known = openrlhf_arguments.STAND_INS
    openrlhf_arguments.STAND_INS = {
        name for name in known if importlib.util.find_spec(name) is None
    }
    sys.meta_path.insert(0, openrlhf_arguments.StandIns())
    main()
