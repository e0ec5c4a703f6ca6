"""Numbers from elsewhere: asked for once, shared by those who wait for them, and remembered.

The questions run in one thread with an event loop, where a deadline can end any of them. Threads
that wait for answers only block.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from threading import Lock, Thread
from typing import Any

from cachetools import LRUCache

MAX_REMEMBERED = 65_536
"""Answers that a term remembers, about 200 bytes each. The least recently used are forgotten."""


class SharedAnswers:
    """Numbers by their key. Threads may ask at the same time."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._remembered: LRUCache[bytes, float] = LRUCache(max_remembered)
        self._asked: dict[bytes, asyncio.Task[float]] = {}

    def get(self, key: bytes, ask: Callable[[], Coroutine[Any, Any, float]]) -> float:
        """The number of a key. Asks if it is not known, or joins those who wait for it.

        Raises:
            Exception: what `ask` raised, for all who wait. A failure is not remembered.
        """
        return asyncio.run_coroutine_threadsafe(self._get(key, ask), _THREAD.loop).result()

    async def _get(self, key: bytes, ask: Callable[[], Coroutine[Any, Any, float]]) -> float:
        if (known := self._remembered.get(key)) is not None:
            return float(known)
        if (task := self._asked.get(key)) is None:
            task = self._asked[key] = asyncio.create_task(ask())
            task.add_done_callback(partial(self._remember, key))
        return await asyncio.shield(task)

    def _remember(self, key: bytes, task: asyncio.Task[float]) -> None:
        del self._asked[key]
        if not task.cancelled() and task.exception() is None:
            self._remembered[key] = task.result()


class _LoopThread:
    """The process's thread for questions. It starts with the first question."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                Thread(target=self._loop.run_forever, name="remote-terms", daemon=True).start()
            return self._loop


_THREAD = _LoopThread()
