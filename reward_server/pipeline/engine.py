"""The engine that serves requests, and how a new engine takes its place."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from reward_server.pipeline.batcher import Batcher
from sar.scoring.base import ScoringPath
from sar.tokenization import RolloutTokenizer

# Python's default is 700. A request makes hundreds of objects and no cycles, so collecting that
# often costs 5 % of the requests per second and frees nothing.
_NEW_OBJECTS_PER_COLLECTION = 10_000


@dataclass(frozen=True)
class Engine:
    """A loaded model: its tokenizer, and the batcher that feeds its scorer."""

    tokenizer: RolloutTokenizer
    batcher: Batcher
    path: str = ""
    """Folder or Hugging Face id that the model was loaded from."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """Architecture, tokenizer and empty-question prompt: equal for all checkpoints of a model."""
    has_room_for_copy: Callable[[], bool] = lambda: True
    """Whether a second engine of this size fits into memory now. The function holds no weights."""
    version: int = 0
    """Training step at which these weights were saved. 0: the weights the server started with."""
    loaded_at_s: float = field(default_factory=time.monotonic)
    scoring_path: ScoringPath | None = None
    """Which way of scoring runs, and why no faster one. None: the scorer does not say."""


@dataclass
class CheckpointCounters:
    """What happened to the policy's checkpoints since the server started."""

    num_refused: int = 0
    """Refused because they are incomplete, broken or not the policy's."""
    num_not_loaded: int = 0
    """Attempts to load one that failed for a reason that may pass."""
    num_failed_looks: int = 0
    """Looks at the folder of `--follow` that failed."""
    num_incomplete: int = 0
    """Checkpoints of `--follow` that stay incomplete."""
    newest_step: int = 0
    """The newest step in the folder of `--follow`, complete or not."""
    looked_at_s: float | None = None
    """`time.monotonic()` of the last look at that folder that succeeded; at first, of the start.
    None without `--follow`."""


class EngineSlot:
    """Holds the one engine that new requests use. A request keeps the engine that it borrowed."""

    def __init__(self) -> None:
        self._engine: Future[Engine] = Future()
        self._num_borrowers: Counter[Batcher] = Counter()
        self._returned = threading.Condition()
        self.checkpoints = CheckpointCounters()

    @property
    def current(self) -> Engine | None:
        """The engine that new requests use; None while the slot is empty."""
        engine = self._engine  # read once: another thread may exchange it
        return engine.result() if engine.done() else None

    def wait_for_current(self, wait: Callable[[Future[Engine]], Engine]) -> Engine:
        """The engine that new requests use, as soon as there is one. It is not lent: its batcher
        may close at any time.

        Args:
            wait: waits for the engine's future and returns its result.
        """
        return wait(self._engine)

    def start(self, engine: Engine) -> None:
        """Fills the empty slot, which also wakes the requests that wait for an engine."""
        # The engine's objects live long: the garbage collector would scan them again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS_PER_COLLECTION)
        self._engine.set_result(engine)

    def replace(self, engine: Engine) -> None:
        """Gives new requests another engine. Returns once the old engine has finished its requests
        and its memory is free."""
        replacement: Future[Engine] = Future()
        replacement.set_result(engine)
        self._retire_current(replacement)

    def withdraw(self) -> None:
        """Empties the slot: new requests wait until the next `start`. Returns once the old engine
        has finished its requests and its memory is free."""
        self._retire_current(Future())

    def close(self, timeout_s: float) -> bool:
        """Finishes the engine's requests and closes it. False if that takes too long."""
        current = self.current
        return current.batcher.close(timeout_s) if current else True

    @contextmanager
    def borrow(self, wait: Callable[[Future[Engine]], Engine]) -> Iterator[Engine]:
        """Lends the current engine to one request; the engine is not closed before it is returned.

        Args:
            wait: waits for the engine's future and returns its result.
        """
        engine = self._lend(wait)
        try:
            yield engine
        finally:
            with self._returned:
                self._num_borrowers[engine.batcher] -= 1
                self._returned.notify_all()

    def _lend(self, wait: Callable[[Future[Engine]], Engine]) -> Engine:
        while True:
            loading = self._engine
            engine = wait(loading)
            with self._returned:
                if loading is self._engine:  # otherwise it was retired, and may be closed by now
                    self._num_borrowers[engine.batcher] += 1
                    return engine

    def _retire_current(self, successor: Future[Engine]) -> None:
        retired = self._engine.result().batcher
        with self._returned:
            self._engine = successor
            self._returned.wait_for(lambda: not self._num_borrowers[retired])
            del self._num_borrowers[retired]
        retired.close()
        gc.unfreeze()  # so that the retired engine's objects are collected
        gc.collect()
        gc.freeze()
