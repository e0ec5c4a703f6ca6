"""Updates the scorer's weights to those of the policy in training, without dropping a request.

SAR assumes that the policy scores its own responses, and the policy changes with every training
step. A request is scored by one checkpoint from start to end. If memory allows, the new checkpoint
is loaded while the old one still scores. If not, the old one finishes its requests and leaves
memory first, and new requests wait until the new one is loaded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from reward_server.errors import CheckpointRefused, NotReady
from reward_server.pipeline.engine import Engine, EngineSlot
from reward_server.weights.checkpoints import find_missing, list_checkpoints, parse_step
from reward_server.weights.identity import describe_difference
from sar.errors import one_line

_POLL_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _LastEngine:
    """The last engine in service, without its weights: enough to load it again."""

    path: str
    identity: Mapping[str, str]
    version: int


class PolicyUpdater:
    """Loads checkpoints into an engine slot, one at a time."""

    def __init__(self, engines: EngineSlot, load: Callable[[str], Engine]) -> None:
        """
        Args:
            engines: the slot whose engine is replaced.
            load: loads an engine from a checkpoint's path. May raise any exception.
        """
        self._engines = engines
        self._load = load
        self._last: _LastEngine | None = None
        self._one_at_a_time = threading.Lock()
        self._stopping = threading.Event()
        self._updates: set[Future[int]] = set()

    def update(self, path: Path) -> Future[int]:
        """Starts to load a checkpoint. The future gives its policy version once it is in service.

        The future raises `CheckpointRefused` if the checkpoint cannot be used: the old weights stay
        in service, or are loaded again. It raises `NotReady` if the first model is not loaded yet,
        or the server is stopping.
        """
        future: Future[int] = Future()
        self._updates.add(future)
        future.add_done_callback(self._updates.discard)
        # A daemon thread: loading may take minutes, and a server that stops does not wait for it.
        threading.Thread(target=self._run, args=(path, future), name="policy", daemon=True).start()
        return future

    def follow(self, folder: Path) -> None:
        """Loads each new complete checkpoint of a trainer's folder, until `close`."""
        threading.Thread(target=self._follow, args=(folder,), name="follow", daemon=True).start()

    @property
    def is_loading(self) -> bool:
        """Whether a checkpoint is being loaded."""
        return self._one_at_a_time.locked()

    def close(self) -> None:
        """Stops updates: those that are not finished raise `NotReady` at once. Does not wait for a
        checkpoint that is being loaded."""
        self._stopping.set()
        for future in list(self._updates):
            with suppress(InvalidStateError):
                future.set_exception(NotReady("the server is stopping"))

    def _run(self, path: Path, future: Future[int]) -> None:
        with suppress(InvalidStateError):  # `close` has already set an exception
            try:
                self._raise_if_stopping()  # before the wait for a checkpoint that is being loaded
                with self._one_at_a_time:
                    self._raise_if_stopping()
                    version = self._update(path)
                future.set_result(version)
            except Exception as error:  # noqa: BLE001  the caller gets every error from the future
                future.set_exception(error)

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise NotReady("the server is stopping")

    def _follow(self, folder: Path) -> None:
        last_step = -1
        while not self._stopping.wait(_POLL_S):
            try:
                found = list_checkpoints(folder)
            except OSError as error:
                _log.error("cannot read --follow %s: %s", folder, error)
                continue
            # The newest first; if it is not complete yet, an older one is better than waiting.
            for step in sorted((step for step in found if step > last_step), reverse=True):
                if not find_missing(found[step]):
                    last_step = step  # also if it is refused: it would be refused again
                    self._wait_for(self.update(found[step]))
                    break

    def _wait_for(self, update: Future[int]) -> None:
        try:
            update.result()
        except CheckpointRefused:
            pass  # `_update` has logged and counted it
        except NotReady as error:
            _log.info("a checkpoint was not loaded: %s", error)
        except Exception:  # noqa: BLE001  the next checkpoint may load
            _log.exception("a checkpoint could not be loaded")

    def _update(self, path: Path) -> int:
        """Puts a checkpoint in service. Counts and logs one that is refused."""
        try:
            return self._put_in_service(path)
        except CheckpointRefused as error:
            self._engines.num_refused_checkpoints += 1
            _log.error("%s", error)
            raise

    def _put_in_service(self, path: Path) -> int:
        """Loads a checkpoint, gives new requests its engine, and returns its policy version."""
        if missing := find_missing(path):
            raise CheckpointRefused(f"checkpoint {str(path)!r} lacks {missing}", "path")
        started_s = time.monotonic()
        last = self._remember_last()
        current = self._engines.current
        if current and current.has_room_for_copy():
            new = self._load_checkpoint(path, last)
            self._engines.replace(new)
        else:
            new = self._load_in_place(path, last)
            self._engines.start(new)
        took_s = time.monotonic() - started_s
        _log.info("policy version %d from %s, loaded in %.1f s", new.version, path, took_s)
        return new.version

    def _remember_last(self) -> _LastEngine:
        """The engine in service, or the one before if the last update has left none.

        Raises:
            NotReady: the first model is not loaded yet.
        """
        if current := self._engines.current:
            self._last = _LastEngine(current.path, current.identity, current.version)
        if not self._last:
            raise NotReady("the model is still loading")
        return self._last

    def _load_in_place(self, path: Path, last: _LastEngine) -> Engine:
        """Frees the old weights, then loads the new. If these are refused, loads the old again."""
        if self._engines.current:
            self._engines.withdraw()
        try:
            return self._load_checkpoint(path, last)
        except CheckpointRefused:
            self._reload(last)
            raise

    def _reload(self, last: _LastEngine) -> None:
        try:
            engine = self._load(last.path)
        except Exception:  # noqa: BLE001  its files may be overwritten or deleted
            _log.exception("cannot reload %s: requests wait for the next checkpoint", last.path)
        else:
            self._engines.start(replace(engine, version=last.version))

    def _load_checkpoint(self, path: Path, last: _LastEngine) -> Engine:
        """
        Raises:
            CheckpointRefused: the checkpoint is broken, or of another model than `last`.
        """
        engine, reason = None, ""
        try:
            engine = self._load(str(path))
        except Exception as error:  # noqa: BLE001  a broken checkpoint can raise anything
            reason = one_line(error)
        # Raised outside the handler: the caught exception's frames would keep weights in memory.
        if engine is None:
            raise CheckpointRefused(f"checkpoint {str(path)!r}: {reason}", "path")
        if difference := describe_difference(engine.identity, last.identity):
            engine.batcher.close()
            raise CheckpointRefused(
                f"checkpoint {str(path)!r} is another model: {difference}", "path"
            )
        step = parse_step(path)
        return replace(engine, version=last.version + 1 if step is None else step)
