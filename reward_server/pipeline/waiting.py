"""How a request waits, so that the service need not know what runs it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

CLIENT_IS_GONE = "reward_server.client_is_gone"
"""Where the WSGI environment may have a function that says so, for one thread at a time to ask."""


@dataclass(frozen=True)
class Waiting:
    """The two ways in which a request waits."""

    for_result: Callable[[Future[Any], float], Any]
    """The future's result; `TimeoutError` after so many seconds."""
    for_others: Callable[[], None]
    """Lets other requests go on for a moment."""


IN_THREADS = Waiting(Future.result, lambda: None)
"""Each request has a thread of its own."""
