"""The rewards to train on: three that the server knows without a file, and some from files."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from sar.reward import DEFAULT_SAR_WEIGHT

_REWARDS = Path(__file__).parent / "rewards"


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


def _from_file(name: str, title: str) -> Arm:
    return arm_from_file(_REWARDS / f"{name}.toml", title)


BASELINE = Arm("correctness", "correctness", 0.0, "reward", 3)
COMBINED = Arm("sar", f"correctness + {DEFAULT_SAR_WEIGHT:g} SAR", DEFAULT_SAR_WEIGHT, "reward", 3)
SAR_ALONE = Arm("sar-alone", "SAR alone", DEFAULT_SAR_WEIGHT, "sar", 2)
ARMS = (BASELINE, COMBINED, SAR_ALONE)
"""Those of `make train-demo`."""
COMPOSED_ARMS = (
    _from_file("o1_pruner", "correctness + 0.2 O1-Pruner"),
    _from_file("efficient", "correctness + 0.2 Efficient-Reasoner"),
    _from_file("entropy", "correctness + 0.2 entropy"),
    _from_file("sar_overlong", "GDPO: correctness, 0.2 SAR, 0.2 overlong"),
)
HACKED_ARMS = (
    _from_file("show_work", "correctness + format that is gamed"),
    _from_file("length_hack", "correctness + 5 overlong"),
)
"""The policy learns to earn these without solving the problems. Their reward logs show whether
alarms notice it."""
EXTRA_ARMS = {"default": (), "all": COMPOSED_ARMS, "hacked": HACKED_ARMS}
"""What each value of `ARMS=` adds to the three arms."""
ALL_ARMS = ARMS + COMPOSED_ARMS + HACKED_ARMS


def find_arm(name: str) -> Arm:
    """
    Raises:
        ValueError: there is no such arm.
    """
    (found,) = (arm for arm in ALL_ARMS if arm.name == name)
    return found
