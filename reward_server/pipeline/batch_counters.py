"""What scorers have done: in total, and each by itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from sar.scoring import TokenSequence

# A pause longer than this ends a stretch of work.
_PAUSE_S = 1.0


@dataclass
class BatcherCounters:
    """What one scorer, or all of them, have done since the start."""

    num_batches: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    num_abandoned: int = 0
    """Jobs skipped because their client had gone."""
    busy_s: float = 0.0
    """Seconds in the scorer."""
    stretch_started_s: float = 0.0
    stretch_ended_s: float = 0.0
    stretch_busy_s: float = 0.0
    """Start and end of the latest stretch of work (`time.monotonic`), and its seconds in the
    scorer. Pauses of up to a second belong to a stretch."""
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def busy_share(self) -> float:
        """The busy share of one scorer."""
        return self.find_busy_share(1)

    def find_busy_share(self, num_scorers: int) -> float:
        """Share of the latest stretch of work spent in the scorers; 0 before the first batch.

        Args:
            num_scorers: how many scorers these numbers are of.
        """
        elapsed_s = self.stretch_ended_s - self.stretch_started_s
        if not elapsed_s:
            return 0.0
        # Scorers come and go: a stretch may have begun with more of them.
        return min(1.0, self.stretch_busy_s / elapsed_s / max(1, num_scorers))

    def add_batch(self, sequences: Sequence[TokenSequence], start_s: float, end_s: float) -> None:
        with self._counting:
            if start_s - self.stretch_ended_s > _PAUSE_S:
                self.stretch_started_s = start_s
                self.stretch_busy_s = 0.0
            # With several scorers, a batch may end after one that began later.
            self.stretch_started_s = min(self.stretch_started_s, start_s)
            self.stretch_ended_s = max(self.stretch_ended_s, end_s)
            self.stretch_busy_s += end_s - start_s
            self.busy_s += end_s - start_s
            self.num_batches += 1
            self.num_sequences += len(sequences)
            self.num_tokens += sum(map(len, sequences))

    def add_abandoned(self) -> None:
        with self._counting:
            self.num_abandoned += 1
