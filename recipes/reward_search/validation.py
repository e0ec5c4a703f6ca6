"""Checks a candidate's code with `sar.terms.candidate`: it runs in a sandbox, never in Python."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from recipes.reward_search.candidates import Checked

if TYPE_CHECKING:
    from sar.terms.candidate.batch import ProbeBatch


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
        digest = hashlib.sha256(repr(found.rewards).encode()).hexdigest()
        return Checked(None, digest)
