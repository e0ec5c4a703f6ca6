"""How a request waits. The service does not know whether threads or greenlets run its requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

from reward_server.errors import RequestTimedOut

_T = TypeVar("_T")

# Small against the 8,192 rollouts of a large request; each takes about 0.1 ms.
_ITEMS_IN_A_ROW = 16

CLIENT_IS_GONE = "reward_server.client_is_gone"
"""Key of the WSGI environment under which the listener puts a function that tells whether the
client has closed its connection."""


@dataclass(frozen=True)
class Waiting:
    """The two ways in which a request waits."""

    for_result: Callable[[Future[Any], float], Any]
    """Returns a future's result. Raises `TimeoutError` if it takes more seconds than this."""
    for_others: Callable[[], None]
    """Lets other requests run for a moment."""

    def in_turns(self, items: Iterable[_T]) -> Iterator[_T]:
        """The items of a loop that would otherwise keep other requests waiting."""
        for index, item in enumerate(items, 1):
            yield item
            if index % _ITEMS_IN_A_ROW == 0:
                self.for_others()


IN_THREADS = Waiting(Future.result, lambda: None)
"""For requests that each run in a thread of their own."""


class Deadline:
    """The time by which a request must have its answer."""

    def __init__(self, timeout_s: float, waiting: Waiting) -> None:
        self.timeout_s = timeout_s
        self._waiting = waiting
        self._ends_at_s = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until it passes; 0 once it has."""
        return max(0.0, self._ends_at_s - time.monotonic())

    def with_waiting(self, waiting: Waiting) -> Deadline:
        """The same deadline for a thread that waits in another way."""
        other = copy(self)
        other._waiting = waiting
        return other

    def wait_until(self, future: Future[Any], until_s: float) -> None:
        """Waits for a future until this time (monotonic), or until the deadline if that is sooner.
        The future may have a result then, an error, or nothing."""
        with suppress(Exception):  # the future keeps its error
            pause_s = max(0.0, until_s - time.monotonic())
            self._waiting.for_result(future, min(pause_s, self.left_s))

    def wait_for(self, future: Future[_T]) -> _T:
        """The future's result.

        Raises:
            RequestTimedOut: the deadline passed first.
        """
        try:
            result: _T = self._waiting.for_result(future, self.left_s)
            return result
        except TimeoutError as error:
            if future.done():  # it finished just now, or failed with a TimeoutError of its own
                return future.result()
            raise RequestTimedOut(
                f"no reward after {self.timeout_s:g} s; /metrics shows what waits"
            ) from error


@dataclass(frozen=True)
class Client:
    """The client that waits for a request's answer."""

    deadline: Deadline
    is_gone: Callable[[], bool] = lambda: False
    """Whether it has closed its connection. Any thread may ask."""
    request_id: str = ""
