"""The rewards to train on: three that the server knows without a file, and some from files."""

from __future__ import annotations

from pathlib import Path

from recipes.training_run.run import Arm, arm_from_file
from sar.reward import DEFAULT_SAR_WEIGHT

_REWARDS = Path(__file__).parent / "rewards"


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
