"""Grades responses with the graders that reward training, in processes that can be killed."""

from __future__ import annotations

from sar.grading.label import Label
from sar.grading.processes.pool import GraderPool
from sar.grading.rules.answers import find_thinking_tag
from sar.grading.verdict import Verdict


class Grader:
    """A pool of grader processes. Many threads may call `grade` at once."""

    def __init__(self, num_workers: int, timeout_s: float) -> None:
        """
        Args:
            num_workers: number of grader processes.
            timeout_s: seconds that a grader may work on one response. After that it is wrong.
        """
        self._pool = GraderPool(num_workers, timeout_s)

    def grade(self, prompt: str, response: str, label: Label) -> Verdict:
        """Grades one response; waits for the verdict.

        Raises:
            Exception: the grader failed. The response was not graded, so it is not wrong.
        """
        return self._pool.submit(find_thinking_tag(prompt) + response, label).result()

    def close(self) -> None:
        self._pool.close()
