"""What the front knows of each scorer and of each model."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from reward_server.pipeline.batch_counters import BatcherCounters
from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.workers import Worker
from reward_server.scaling.actor import NotLoaded
from reward_server.scaling.files import Listing
from reward_server.scaling.messages import Running

# A load that failed is tried again after this time, then after twice the time, and so on.
FIRST_RETRY_S = 10.0
MAX_RETRY_S = 600.0


@dataclass
class Refusal:
    """A model that a scorer could not load."""

    failure: NotLoaded
    retry_at_s: float
    retry_s: float


@dataclass(eq=False)
class Model:
    """A model that scorers load, or have loaded."""

    key: int
    path: str
    files: Listing
    facts: dict[str, Any] | None = None
    """What the scorers told that loaded it first."""
    batcher: Batcher | None = None
    """Gives it jobs. None: it is not in service yet."""
    num_ended: Counter[int] = field(default_factory=Counter)
    """How often each scorer ended while it loaded it."""
    last_failure: NotLoaded | None = None


@dataclass(eq=False)
class Scorer:
    """A scorer on Ray, through all of its runs."""

    number: int
    place: Running | None = None
    """Where its present run is; None between runs."""
    num_restarts: int = 0
    has_started: bool = False
    loading: dict[int, float] = field(default_factory=dict)
    """When each load that is under way began (`time.monotonic`), by key."""
    loaded: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Facts of the models that it has loaded, by key."""
    refused: dict[int, Refusal] = field(default_factory=dict)
    workers: dict[int, Worker] = field(default_factory=dict)
    without_thread: dict[int, Model] = field(default_factory=dict)
    """Models for which it gets no jobs yet, as no thread was left."""
    calls: dict[int, Future[Any]] = field(default_factory=dict)
    """The calls that it has not answered."""
    counters: BatcherCounters = field(default_factory=BatcherCounters)
    version: int = 0
    """Policy version of the weights that it scored with last."""
    is_leaving: bool = False
    waits_since_s: float | None = field(default_factory=time.monotonic)
    """Since when it has no place. None: it has one, or the log says already that it waits."""

    def forget_run(self) -> list[Future[Any]]:
        """Forgets all of a run that has ended, and returns its open calls."""
        open_calls = list(self.calls.values())
        self.place = None
        self.waits_since_s = time.monotonic()
        for one in (
            self.loading,
            self.loaded,
            self.refused,
            self.workers,
            self.without_thread,
            self.calls,
        ):
            one.clear()
        return open_calls

    def find_state(self, newest: int | None) -> Literal["starting", "loading", "up", "behind"]:
        """
        Args:
            newest: key of the newest model in service.
        """
        if self.place is None:
            return "starting"
        if newest is not None and newest in self.workers:
            return "up"
        return "behind" if newest in self.refused else "loading"
