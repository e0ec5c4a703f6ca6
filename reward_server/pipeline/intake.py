"""Threads that parse and tokenise requests.

A large body or a long text takes seconds. The thread that serves connections must not take them
itself: it would leave /healthz unanswered, and orchestrators kill a server that does that.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from reward_server.errors import ClientGone
from reward_server.pipeline.waiting import Client

_T = TypeVar("_T")

# The tokenizer works outside the GIL, so a second thread is not held up by a first long text. More
# would only compete with the thread that serves connections.
_NUM_THREADS = 2


class Intake:
    """Runs the work of requests in the order in which it comes."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="intake")

    def run(self, work: Callable[[], _T], client: Client) -> _T:
        """Runs `work` in an intake thread, waits for it, and returns its result.

        Raises:
            ClientGone: the client had left before the work began, so it was not done.
            RequestTimedOut: the client's deadline passed first.
            Exception: whatever `work` raises.
        """

        def start() -> _T:
            if client.is_gone():
                raise ClientGone("the client has gone")
            return work()

        future = self._threads.submit(start)
        try:
            return client.deadline.wait_for(future)
        finally:
            future.cancel()
