"""How the minutes of a search are spent: rounds only while the runs at the end still fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPORT_S = 15.0
"""Kept for the statistics and the report."""
_SLOWEST_SHARE = 0.9
"""A run is expected to take as long as this share of the runs so far, or less."""


@dataclass(frozen=True)
class Budget:
    """Time for a whole search, over all its starts."""

    total_s: float
    used_s: Callable[[], float]
    run_seconds: Callable[[], Sequence[float]]
    """Of the training runs so far."""
    jobs: int
    """Runs at a time."""

    @property
    def left_s(self) -> float:
        """Until the report has to be written."""
        return self.total_s - REPORT_S - self.used_s()

    def spare_s(self, num_runs_after: int) -> float:
        """Seconds that are left beside some runs that have to fit."""
        return self.left_s - self._expect_run_s() * math.ceil(num_runs_after / self.jobs)

    def can_start(self, num_runs_after: int) -> bool:
        """Whether there is time for one more run and, once it has ended, for others."""
        return self._expect_run_s() <= self.spare_s(num_runs_after)

    def _expect_run_s(self) -> float:
        """0 as long as no run has ended."""
        seconds = sorted(self.run_seconds())
        return seconds[math.ceil(_SLOWEST_SHARE * len(seconds)) - 1] if seconds else 0.0
