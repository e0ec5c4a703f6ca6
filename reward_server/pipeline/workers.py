"""A batcher's scorers, each with the thread that feeds it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from reward_server.pipeline.batch_counters import BatcherCounters
from sar.scoring import LogprobScorer


class BatcherClosed(Exception):
    """The batcher was closed before it scored a job of `submit_behind`."""


class ScorerLost(Exception):
    """The scorer has ended, and did not score these sequences. Another scorer can."""


@dataclass(frozen=True)
class QueueState:
    """What waits for the scorers."""

    num_rollouts: int
    num_tokens: int
    oldest_s: float
    """Seconds that the oldest job has waited; 0 if none waits."""


class Worker:
    """A scorer of a batcher, and the thread that feeds it."""

    def __init__(
        self,
        scorer: LogprobScorer,
        counters: BatcherCounters | None,
        on_faulty: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.scorer: LogprobScorer | None = scorer
        self.counters = counters
        self.on_faulty = on_faulty
        self.on_end = on_end
        self.num_faults = 0
        self.is_stopping = False
        self.thread: threading.Thread
