"""The training runs: their seeds and shared settings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.cpu_demo.arms import (
    ALL_ARMS,
    ARMS,
    BASELINE,
    COMBINED,
    SAR_ALONE,
    find_arm,
)
from recipes.training_run.run import Arm, Run, arm_from_file

DATA_SEED = 20_000  # other problems than the bundled model's
# The model gets every other three-step problem wrong. In that noise, 4,000 rollouts show no
# difference in length; the paper's runs have eighty times as many.
MAX_PROBLEM_STEPS = 2


@dataclass(frozen=True)
class Settings:
    """What all runs share."""

    num_steps: int
    num_start_steps: int = 160
    """Steps of supervised training that make the start model."""
    prompts_per_step: int = 4
    rollouts_per_prompt: int = 6
    learning_rate: float = 2.5e-4
    max_response_tokens: int = 128
    save_every_steps: int = 5
    """Steps between checkpoints. The server follows them."""
    eval_problems: int = 200
    eval_samples: int = 4
    """Samples of each problem, at temperature 1."""
    trainer: str = "trl"

    @property
    def program(self) -> str:
        """The module that trains one run."""
        return {
            "trl": "recipes.cpu_demo.train",
            "openrlhf": "recipes.cpu_demo.train_openrlhf",
        }[self.trainer]


FULL = Settings(num_steps=190)
QUICK = Settings(num_steps=110)
# recipes/grpo.sh counts prompts in steps of 128, so 32 of these steps are one of its own.
OPENRLHF_FULL = Settings(num_steps=160, trainer="openrlhf")
OPENRLHF_QUICK = Settings(num_steps=32, trainer="openrlhf")
# With `extra` arms, all have as many, so that the table compares like with like.
_NUM_COMPARED_SEEDS = 2
# Not on SAR alone: OpenRLHF trains on the server's reward, which has correctness in it.
_OPENRLHF_SEEDS = {BASELINE: 2, COMBINED: 2}


def list_arm_flags(arm: Arm) -> tuple[str, ...]:
    """What a program that trains one run is told about its arm; see `parse_run`."""
    if arm in ALL_ARMS:
        return ("--arm", arm.name)
    return ("--reward", str(arm.reward_file))


def start_model_path(output: Path) -> Path:
    """The folder of the model that all runs in `output` start from."""
    return output / "start" / "model"


def plan_runs(
    output: Path, quick: bool, trainer: str = "trl", *, extra: Sequence[Arm] = ()
) -> Iterator[Run]:
    """Lists all runs, seed by seed: the runs to compare then train at the same time.

    Args:
        extra: arms to train besides those of `make train-demo`.
    """
    num_seeds = {arm: arm.num_seeds for arm in ARMS} if trainer == "trl" else dict(_OPENRLHF_SEEDS)
    if extra:
        num_seeds |= {arm: arm.num_seeds for arm in extra}
        num_seeds = {arm: min(num, _NUM_COMPARED_SEEDS) for arm, num in num_seeds.items()}
    for seed in range(max(num_seeds.values())):
        for arm, num in num_seeds.items():
            if seed < num and not (quick and (seed or arm is SAR_ALONE)):
                yield Run(arm, seed, output / f"{arm.name}-{seed}", start_model_path(output))


def parse_run(
    program: str, default: Settings, argv: Sequence[str] | None = None
) -> tuple[Run, Settings, str]:
    """Reads the command line of a program that trains one run.

    Args:
        program: the module's name.
        default: the settings without `--settings`.
    Returns:
        The run, its settings, and the URL of its reward server.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description="Trains one arm with one seed."
    )
    arm = parser.add_mutually_exclusive_group(required=True)
    arm.add_argument("--arm", choices=[arm.name for arm in ALL_ARMS])
    arm.add_argument(
        "--reward",
        type=Path,
        metavar="FILE",
        help="an arm of its own, which the server at URL was started with",
    )
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--model", required=True, type=Path, help="folder of the start model")
    parser.add_argument("--url", required=True, help="server that follows OUTPUT/checkpoints")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument(
        "--settings",
        type=lambda text: Settings(**json.loads(text)),
        default=default,
        help="JSON object as in settings.json (default: the full demo's)",
    )
    given = parser.parse_args(argv)
    one = arm_from_file(given.reward, given.reward.stem) if given.reward else find_arm(given.arm)
    run = Run(one, given.seed, given.output.resolve(), given.model)
    return run, given.settings, given.url
