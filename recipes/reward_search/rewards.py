"""Reward files of candidates, of ensembles of them, and the controls."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from recipes.cpu_demo.arms import BASELINE, COMBINED
from recipes.training_run.run import Arm, arm_from_file
from sar.files import write_atomically

CONTROLS = (BASELINE, COMBINED)
"""Correctness alone, which all others are compared with, and the default reward."""
TOP_EVEN, TOP_BY_RANK, RANDOM_DRAW = "top_even", "top_by_rank", "random_draw"
TITLES = {
    TOP_EVEN: "ensemble of the best (weighted evenly)",
    TOP_BY_RANK: "ensemble of the best (weighted by rank)",
    RANDOM_DRAW: "ensemble of as many, drawn at random",
}


def weigh_evenly(names: Sequence[str]) -> dict[str, float]:
    return {name: 1 / len(names) for name in names}


def weigh_by_rank(names: Sequence[str]) -> dict[str, float]:
    """Weights k, k-1, ..., 1 from the best to the k-th, over their sum."""
    total = len(names) * (len(names) + 1) / 2
    return {name: (len(names) - place) / total for place, name in enumerate(names)}


def write_reward(folder: Path, name: str, weights: Mapping[str, float], title: str) -> Path:
    """Writes `folder`/NAME.toml, which sums candidates whose code lies beside it.

    Args:
        weights: of the candidates, by name.
    """
    lines = [f"# {title}"]
    for candidate, weight in weights.items():
        lines += [
            "",
            "[[terms]]",
            f'name = "{candidate}"',
            f'term = "candidate:{candidate}.py"',
            f"weight = {weight!r}",
        ]
    file = folder / f"{name}.toml"
    write_atomically(file, "\n".join(lines) + "\n")
    return file


def write_code(folder: Path, name: str, source: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.py", source if source.endswith("\n") else source + "\n")


def make_arm(folder: Path, name: str, weights: Mapping[str, float], title: str) -> Arm:
    """Writes the reward file of a candidate or an ensemble. Their code has been written."""
    return arm_from_file(write_reward(folder, name, weights, title), title)


def write_winner(folder: Path, rewards: Path, weights: Mapping[str, float], title: str) -> Path:
    """Writes a folder to train with: reward.toml and the code of its candidates.

    Returns:
        The reward file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in weights:
        shutil.copyfile(rewards / f"{name}.py", folder / f"{name}.py")
    return write_reward(folder, "reward", weights, title)
