"""Which checkpoint is loaded next: one loads, and one waits for each source of updates.

Each source has a place of its own and the places are served in turn, so that neither a flood of
requests nor `--follow` keeps the other from loading.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import Literal

from reward_server.errors import Busy, ClientGone, NotReady

Source = Literal["request", "follower"]


class Update:
    """A checkpoint that is to be loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version: Future[int] = Future()
        """The policy version, once the checkpoint is in service."""
        self.gone_checks: list[Callable[[], bool]] = []
        """For each client that waits for it: tells whether the client has left."""

    @property
    def is_abandoned(self) -> bool:
        """Whether all clients that wait for it have left."""
        return all(is_gone() for is_gone in self.gone_checks)

    def fail(self, error: BaseException) -> None:
        """Ends the update with an error, unless it has ended already."""
        with suppress(InvalidStateError):
            self.version.set_exception(error)


class UpdateQueue:
    """The update that is being loaded, and those that wait. Safe to use from several threads."""

    def __init__(self) -> None:
        self._loading: Update | None = None
        self._waiting: dict[Source, Update] = {}  # by arrival
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    @property
    def is_loading(self) -> bool:
        """Whether a checkpoint is being loaded."""
        return self._loading is not None

    def wait_for_close(self, timeout_s: float) -> bool:
        """Whether the queue is closed within this time."""
        return self._stopping.wait(timeout_s)

    def add(self, path: Path, is_gone: Callable[[], bool], source: Source) -> Future[int]:
        """Returns the policy version to come. An update of the same path that already loads or
        waits is shared.

        Args:
            is_gone: whether the client has left. An update that all have left is not loaded.
        Raises:
            Busy: one checkpoint is loading, and another of this source waits.
            NotReady: the server is stopping.
        """
        with self._changed:
            if self._stopping.is_set():
                raise NotReady("the server is stopping")
            update = self._find(path)
            if not update:
                update = Update(path)
                self._place(update, source)
            update.gone_checks.append(is_gone)
            return update.version

    def take(self) -> Update | None:
        """Waits for the next update, which then counts as loading until `finish`. None: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._loading or self._stopping.is_set())
            return self._loading

    def finish(self) -> None:
        """Ends the update that is loading; the one that has waited longest is next."""
        with self._changed:
            first = next(iter(self._waiting), None)
            self._loading = self._waiting.pop(first) if first else None

    def close(self) -> None:
        """Fails all updates with `NotReady`, also the one that is loading."""
        with self._changed:
            self._stopping.set()
            updates = list(self._waiting.values()) + ([self._loading] if self._loading else [])
            self._waiting.clear()
            self._changed.notify_all()
        for update in updates:
            update.fail(NotReady("the server is stopping"))

    def _find(self, path: Path) -> Update | None:
        for update in (self._loading, *self._waiting.values()):
            if update and update.path == path:
                return update
        return None

    def _place(self, update: Update, source: Source) -> None:
        if not self._loading:
            self._loading = update
            self._changed.notify_all()
            return
        before = self._waiting.get(source)
        if before and not before.is_abandoned:
            raise Busy(
                f"{self._loading.path} is being loaded and {before.path} waits: try again later"
            )
        if before:
            before.fail(ClientGone("the client left before its checkpoint was loaded"))
            del self._waiting[source]  # the new one has not waited yet
        self._waiting[source] = update
