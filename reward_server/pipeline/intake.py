"""Threads that parse and tokenise requests.

A large body or a long text takes seconds. The thread that serves connections must not take them
itself: it would leave /healthz unanswered, and orchestrators kill a server that does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from reward_server.errors import ClientGone
from reward_server.pipeline.waiting import Client

_T = TypeVar("_T")

# The tokenizer works outside the GIL, so two threads do more than one. More would only compete with
# the thread that serves connections.
_NUM_THREADS = 2
# Longer than the rollouts of a training run. Such texts take a thread of their own, so that whoever
# sends them does not keep trainers waiting.
_LONG_CHARS = 1 << 18
# Characters read before another request has its turn: about 10 ms of tokenising.
_CHARS_IN_A_ROW = 1 << 14


class Intake:
    """Runs the work of requests in the order in which it comes, long work apart."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="intake")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="intake-long")
        self.num_abandoned = 0
        """Requests that were skipped because their client had gone."""

    def run(self, work: Callable[[], _T], client: Client, num_chars: int) -> _T:
        """Runs `work` in an intake thread, waits for it, and returns its result.

        Args:
            num_chars: length of the text that the work reads.
        Raises:
            ClientGone: the client had left before the work began, so it was not done.
            RequestTimedOut: the client's deadline passed first.
            Exception: whatever `work` raises.
        """

        def start() -> _T:
            if client.is_gone():
                self.num_abandoned += 1
                raise ClientGone("the client has gone")
            return work()

        future = (self._long if num_chars > _LONG_CHARS else self._threads).submit(start)
        try:
            return client.deadline.wait_for(future)
        finally:
            future.cancel()


def split_into_chunks(
    items: Sequence[_T], count_chars: Callable[[_T], int]
) -> Iterator[tuple[list[_T], int]]:
    """Items that are read in one go, and their number of characters. Between chunks, other requests
    have their turn."""
    chunk: list[_T] = []
    num_chars = 0
    for item in items:
        num_more = count_chars(item)
        if chunk and num_chars + num_more > _CHARS_IN_A_ROW:
            yield chunk, num_chars
            chunk, num_chars = [], 0
        chunk.append(item)
        num_chars += num_more
    yield chunk, num_chars
