"""Whether the scorer's weights keep up with the policy's."""

from __future__ import annotations

import statistics
from collections import deque

_MIN_GAPS = 3
_NUM_REMEMBERED = 32


class Lag:
    """Counts, in checkpoints, how far the scorer is behind.

    In a log, that is the number of rollouts since `policy_version` changed, divided by the median
    number of rollouts between the changes before, or by a block if that is more. A server that
    follows a trainer also knows the newest checkpoint: of those newer than its weights, each
    counts.
    """

    def __init__(self, block: int) -> None:
        self._block = block
        self._recent: deque[str | int] = deque(maxlen=4)
        self._gaps: deque[int] = deque(maxlen=8)
        self._num_since = 0
        self._newest: deque[int] = deque(maxlen=_NUM_REMEMBERED)

    def add(self, version: str | int | None) -> None:
        """Counts a rollout that was scored by these weights."""
        self._num_since += 1
        # Requests end out of order: the version before may come again.
        if version is None or version in self._recent:
            return
        if self._recent:
            self._gaps.append(self._num_since)
        self._recent.append(version)
        self._num_since = 0

    def note_newest(self, step: int) -> None:
        """Notes the step of the newest checkpoint that the trainer has written."""
        if step not in self._newest:
            self._newest.append(step)

    @property
    def num_checkpoints(self) -> float | None:
        """Checkpoints that the scorer is behind. None: its weights have changed too seldom to tell,
        and it follows no trainer."""
        known: list[float] = []
        if len(self._gaps) >= _MIN_GAPS:
            known.append(self._num_since / max(statistics.median(self._gaps), self._block))
        version = self._recent[-1] if self._recent else None
        if isinstance(version, int) and any(self._newest):
            known.append(float(sum(step > version for step in self._newest)))
        return max(known, default=None)
