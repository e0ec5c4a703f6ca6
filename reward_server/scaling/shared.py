"""What the parts of a scorer pool share: its lock, scorers and models, and the way to Ray."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from reward_server.pipeline.workers import ScorerLost
from reward_server.scaling.connection import DriverProcess
from reward_server.scaling.messages import Call, CallLost, Returned
from reward_server.scaling.states import Model, Scorer


class ConnectionLost(ScorerLost):
    """The connection to Ray is lost, and all scorers with it."""


class Shared:
    """Use it with `changed` held."""

    def __init__(self, pack_timeout_s: float) -> None:
        """
        Args:
            pack_timeout_s: how long a scorer may take for a pack.
        """
        self.pack_timeout_s = pack_timeout_s
        self.changed = threading.Condition()
        self.scorers: dict[int, Scorer] = {}
        self.models: dict[int, Model] = {}
        self.driver: DriverProcess | None = None
        """The process that talks to Ray; None while there is none."""
        self.is_connected = False
        """Whether that process has reached Ray."""
        self.is_closed = False
        self.fault = ""
        """Why there can be no scorers, now or later."""
        self.num_not_loaded = 0
        """Loads that failed on a scorer."""
        self._call_numbers = itertools.count(1)

    @property
    def newest(self) -> int | None:
        """Key of the newest model in service."""
        return max((key for key, model in self.models.items() if model.batcher), default=None)

    def send(self, message: Any) -> None:
        """Sends a message to Ray. It is lost while there is no connection."""
        if self.driver:
            self.driver.send(message)

    def call(self, scorer: Scorer, method: Any, *arguments: Any) -> Future[Any]:
        """Calls a method of `ScorerActor`. The future raises `ScorerLost` if the scorer ends."""
        assert scorer.place
        number = next(self._call_numbers)
        future: Future[Any] = Future()
        scorer.calls[number] = future
        self.send(Call(number, scorer.number, scorer.place.run, method, arguments))
        return future

    def end_call(self, message: Returned | CallLost) -> None:
        """Gives a call its result. Takes `changed` itself."""
        with self.changed:
            open_calls = (s.calls.pop(message.number, None) for s in self.scorers.values())
            future = next(filter(None, open_calls), None)
        if future is None:  # its run has ended
            return
        if isinstance(message, Returned):
            future.set_result(message.value)
        else:
            future.set_exception(ScorerLost(message.reason))


def fail(calls: Sequence[Future[Any]], error: ScorerLost) -> None:
    """Ends the open calls of a run that has ended."""
    for call in calls:
        call.set_exception(error)
