"""Grades responses with the graders that reward training, in their killable processes."""

from __future__ import annotations

from sar.grading.label import Label
from sar.grading.processes.pool import GraderPool
from sar.grading.rules.answers import opened_thinking
from sar.grading.verdict import Verdict


class Grader:
    """A grader pool, asked for one verdict at a time from many threads."""

    def __init__(self, num_workers: int, timeout_s: float) -> None:
        """
        Args:
            num_workers: grader processes.
            timeout_s: seconds of work one response may take.
        """
        self._pool = GraderPool(num_workers, timeout_s)

    def verdict(self, prompt: str, response: str, label: Label) -> Verdict:
        """
        Raises:
            Exception: the grader itself is at fault; never a verdict of wrong.
        """
        return self._pool.submit(opened_thinking(prompt) + response, label).result()

    def close(self) -> None:
        self._pool.close()
