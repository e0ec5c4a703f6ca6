"""A training run: the reward to train on, the seed, and the paths of its files."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arm:
    """One reward to train on. All arms share everything else."""

    name: str
    title: str
    sar_weight: float
    """The reward server's, if there is no reward file."""
    field: str
    """The field of the server's answer that is the reward."""
    num_seeds: int
    reward_file: Path | None = None
    """Says the reward, in place of `sar_weight`."""

    @property
    def server_flags(self) -> tuple[str, str]:
        """What the arm's reward server is started with."""
        if self.reward_file is None:
            return ("--sar-weight", f"{self.sar_weight:g}")
        return ("--reward", str(self.reward_file))

    @property
    def is_gdpo(self) -> bool:
        if self.reward_file is None:
            return False
        # Not `read_reward_file`: --help need not wait for what it imports.
        return bool(tomllib.loads(self.reward_file.read_text()).get("normalize") == "gdpo")


def arm_from_file(file: Path, title: str) -> Arm:
    """An arm that is named after its reward file."""
    return Arm(file.stem, title, 0.0, "reward", num_seeds=2, reward_file=file)


@dataclass(frozen=True)
class Run:
    """One arm with one seed, and the paths of its files."""

    arm: Arm
    seed: int
    folder: Path
    start_model: Path
    """Folder of the model that all runs start from."""

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints named as OpenRLHF's, `global_step{N}_hf`."""
        return self.folder / "checkpoints"

    @property
    def final(self) -> Path:
        return self.folder / "final"

    @property
    def steps_file(self) -> Path:
        """One JSON object for each step, in order."""
        return self.folder / "steps.jsonl"

    @property
    def rewards(self) -> Path:
        """The server's reward log: every rollout of the training."""
        return self.folder / "rewards"

    @property
    def evaluation(self) -> Path:
        return self.folder / "eval"
