"""Checks a candidate's code with `sar.terms.candidate`: it runs in a sandbox, never in Python."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from recipes.cpu_demo.arms import BASELINE
from recipes.reward_search.candidates import Checked
from recipes.reward_search.rewards import CONTROLS

if TYPE_CHECKING:
    from recipes.training_run.run import Arm
    from sar.terms.candidate.batch import ProbeBatch


def _score_control(control: Arm, batch: ProbeBatch) -> tuple[float, ...]:
    """What a control, which is trained in each search, pays for the batch."""
    samples = [one.sample for one in batch]
    return tuple(float(one["correct"]) + control.sar_weight * one["sar"] for one in samples)


class Validator:
    """Tries candidates on the probe batch."""

    def __init__(self, num_problems: int | None = None) -> None:
        """
        Args:
            num_problems: of the probe batch, if not as many as usual.
        """
        self._num_problems = num_problems
        self._batch: ProbeBatch | None = None

    def __call__(self, source: str) -> Checked:
        """
        Raises:
            ProbeError: the probe batch cannot be built.
            SandboxError: the sandbox or the machine is at fault, not the candidate.
        """
        from sar.terms.candidate.batch import NUM_PROBLEMS, load_batch
        from sar.terms.candidate.validate import Rejection, validate

        if self._batch is None:  # takes seconds
            self._batch = load_batch(self._num_problems or NUM_PROBLEMS)
        found = validate(source, self._batch)
        if isinstance(found, Rejection):
            return Checked(found.reason)
        for control in CONTROLS:
            if found.rewards == _score_control(control, self._batch):
                name = "correctness alone" if control is BASELINE else control.title
                return Checked(f"the same rewards for the probe batch as {name}")
        digest = hashlib.sha256(repr(found.rewards).encode()).hexdigest()
        return Checked(None, digest)
