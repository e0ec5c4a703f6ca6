"""The engine that requests go to, and its replacement by another one while they do."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from reward_server.pipeline.batcher import Batcher
from sar.tokenization import RolloutTokenizer


@dataclass(frozen=True)
class Engine:
    """What a loaded model brings."""

    tokenizer: RolloutTokenizer
    batcher: Batcher
    path: str = ""
    architecture: str = ""
    """What another checkpoint of the same model has in common with this one."""
    fits_twice: Callable[[], bool] = lambda: True
    """Whether there is memory for another of its size beside it. Must not hold the weights."""
    version: int = 0
    """The policy's step that the weights are of; 0 for those that the server started with."""
    loaded_at_s: float = field(default_factory=time.monotonic)


class EngineInService:
    """One engine at a time for new requests; a request keeps the one that it began with."""

    def __init__(self) -> None:
        self._engine: Future[Engine] = Future()
        self._num_users: Counter[Batcher] = Counter()
        self._released = threading.Condition()

    @property
    def current(self) -> Engine | None:
        """None while one is loaded."""
        engine = self._engine  # read once: it may be withdrawn meanwhile
        return engine.result() if engine.done() else None

    def start(self, engine: Engine) -> None:
        """Takes a loaded engine into service, and with it the requests that waited for one."""
        # What is loaded stays: the collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        self._engine.set_result(engine)

    def replace(self, engine: Engine) -> None:
        """Gives new requests to another engine; returns once the one before has finished its own,
        and has left memory."""
        replacement: Future[Engine] = Future()
        replacement.set_result(engine)
        self._retire_for(replacement)

    def withdraw(self) -> None:
        """Holds new requests until the next `start`; returns once the engine has finished those it
        has, and has left memory."""
        self._retire_for(Future())

    def close(self, timeout_s: float) -> bool:
        """Finishes what the engine has, and closes it; False if it took too long."""
        current = self.current
        return current.batcher.close(timeout_s) if current else True

    @contextmanager
    def used(self, wait: Callable[[Future[Engine]], Engine]) -> Iterator[Engine]:
        """The engine for the whole of a request.

        Args:
            wait: waits for one that is loaded.
        """
        engine = self._taken(wait)
        try:
            yield engine
        finally:
            with self._released:
                self._num_users[engine.batcher] -= 1
                self._released.notify_all()

    def _taken(self, wait: Callable[[Future[Engine]], Engine]) -> Engine:
        while True:
            loading = self._engine
            engine = wait(loading)
            with self._released:
                if loading is self._engine:  # else it may be closed by now
                    self._num_users[engine.batcher] += 1
                    return engine

    def _retire_for(self, following: Future[Engine]) -> None:
        retired = self._engine.result().batcher
        with self._released:
            self._engine = following
            self._released.wait_for(lambda: not self._num_users[retired])
            del self._num_users[retired]
        retired.close()
        gc.unfreeze()  # what it had loaded goes
        gc.collect()
        gc.freeze()
