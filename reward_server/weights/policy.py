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

from reward_server.errors import (
    CheckpointIncomplete,
    CheckpointNotLoaded,
    CheckpointRefused,
    ClientGone,
    NotReady,
    RewardServerError,
)
from reward_server.pipeline.engine import Engine, EngineSlot
from reward_server.weights.checkpoints import find_flaw, parse_step, read_signature
from reward_server.weights.identity import describe_difference
from reward_server.weights.remote import LoadFailed, describe_failure
from reward_server.weights.update_queue import Source, Update, UpdateQueue
from sar.errors import quote

# What Rust, in which safetensors is written, adds to the messages of the system's errors.
_RUST_SYSTEM_ERROR = "(os error "

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _LastEngine:
    """The last engine in service, without its weights: enough to load it again."""

    path: str
    identity: Mapping[str, str]
    version: int


class PolicyUpdater:
    """Loads checkpoints into an engine slot, one at a time, in a thread of its own."""

    def __init__(
        self,
        engines: EngineSlot,
        load: Callable[[str], Engine],
        identify: Callable[[str], Mapping[str, str]] | None = None,
    ) -> None:
        """
        Args:
            engines: the slot whose engine is replaced.
            load: loads an engine from a checkpoint's path. May raise any exception.
            identify: checks a checkpoint and returns its engine's identity, without an engine. May
                raise any exception. Called before the old engine leaves memory. None: only `load`
                can tell.
        """
        self._engines = engines
        self._load = load
        self._identify = identify
        self._last: _LastEngine | None = None
        self._queue = UpdateQueue()
        # A daemon thread: loading may take minutes, and a server that stops does not wait for it.
        threading.Thread(target=self._run, name="policy", daemon=True).start()

    def update(
        self, path: Path, is_gone: Callable[[], bool] = lambda: False, source: Source = "request"
    ) -> Future[int]:
        """Asks for a checkpoint. The future gives its policy version once it is in service.

        The future raises `CheckpointRefused` if the checkpoint cannot be used, and
        `CheckpointNotLoaded` if loading it failed for a reason that may pass: the old weights stay
        in service, or are loaded again. It raises `NotReady` if the first model is not loaded yet,
        or the server is stopping, and `ClientGone` if all clients left before loading began.

        Args:
            is_gone: tells whether the client that asks has left. Any thread may call it.
            source: who asks.
        Raises:
            Busy, NotReady: see `UpdateQueue.add`.
        """
        return self._queue.add(path, is_gone, source)

    @property
    def is_loading(self) -> bool:
        """Whether a checkpoint is being loaded."""
        return self._queue.is_loading

    def wait_for_close(self, timeout_s: float) -> bool:
        """Whether updates are stopped within this time."""
        return self._queue.wait_for_close(timeout_s)

    def close(self) -> None:
        """Stops updates: those that are not finished raise `NotReady` at once. Does not wait for a
        checkpoint that is being loaded."""
        self._queue.close()

    def _run(self) -> None:
        while update := self._queue.take():
            if not self._queue.wait_for_close(0):
                self._process(update)
            self._queue.finish()

    def _process(self, update: Update) -> None:
        try:
            if update.is_abandoned:
                raise ClientGone("the client left before its checkpoint was loaded")
            version = self._update(update.path)
        except RewardServerError as error:
            # Without its traceback, whose frames would keep the refused weights in memory.
            update.fail(error.with_traceback(None))
        except BaseException as error:  # noqa: BLE001  whoever waits gets it
            _log.exception("checkpoint %s could not be loaded", update.path)
            update.fail(error.with_traceback(None))
        else:
            with suppress(InvalidStateError):  # `close` has already set an exception
                update.version.set_result(version)

    def _update(self, path: Path) -> int:
        """Puts a checkpoint in service. Counts and logs one that is not."""
        try:
            return self._put_in_service(path)
        except CheckpointRefused as error:
            self._engines.checkpoints.num_refused += 1
            _log.error("%s", error)
            raise
        except CheckpointNotLoaded as error:
            self._engines.checkpoints.num_not_loaded += 1
            _log.error("%s", error)
            raise

    def _put_in_service(self, path: Path) -> int:
        """Loads a checkpoint, gives new requests its engine, and returns its policy version."""
        if flaw := find_flaw(path):
            raise CheckpointIncomplete(f"checkpoint {quote(str(path))}: {flaw}", "path")
        started_s = time.monotonic()
        last = self._remember_last()
        current = self._engines.current
        if current and current.has_room_for_copy():
            new = self._load_checkpoint(path, last)
            self._engines.replace(new)
        else:
            self._check_before(path, last)
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

    def _check_before(self, path: Path, last: _LastEngine) -> None:
        """Refuses what can be refused while the old weights still score.

        Raises:
            CheckpointRefused, CheckpointNotLoaded: see `_load_checkpoint`.
        """
        if not self._identify:
            return
        try:
            identity = self._identify(str(path))
        except BaseException as error:  # noqa: BLE001  see `_try_to_load`
            failure = _describe_failure(path, error)
        else:
            _raise_if_other(path, identity, last)
            return
        raise failure

    def _load_in_place(self, path: Path, last: _LastEngine) -> Engine:
        """Frees the old weights, then loads the new. If that fails, loads the old again."""
        if self._engines.current:
            self._engines.withdraw()
        try:
            return self._load_checkpoint(path, last)
        except RewardServerError as error:
            # Without its traceback, whose frames would keep the refused weights in memory.
            failure = error.with_traceback(None)
        self._reload(last)
        raise failure

    def _reload(self, last: _LastEngine) -> None:
        try:
            engine = self._load(last.path)
        except BaseException:  # noqa: BLE001  its files may be overwritten or deleted
            _log.exception("cannot reload %s: requests wait for the next checkpoint", last.path)
            return
        if difference := describe_difference(engine.identity, last.identity):
            engine.batcher.close()
            _log.error(
                "%s is another model by now: %s; requests wait for the next checkpoint",
                last.path,
                difference,
            )
            return
        self._engines.start(replace(engine, version=last.version))

    def _load_checkpoint(self, path: Path, last: _LastEngine) -> Engine:
        """
        Raises:
            CheckpointRefused: the checkpoint is broken, or of another model than `last`.
            CheckpointNotLoaded: loading failed for a reason that may pass.
        """
        engine = self._try_to_load(path)
        # Raised outside the handler: the caught exception's frames would keep weights in memory.
        if isinstance(engine, RewardServerError):
            raise engine
        try:
            _raise_if_other(path, engine.identity, last)
        except CheckpointRefused:
            engine.batcher.close()
            raise
        step = parse_step(path)
        return replace(engine, version=last.version + 1 if step is None else step)

    def _try_to_load(self, path: Path) -> Engine | RewardServerError:
        before = read_signature(path)
        try:
            engine = self._load(str(path))
        # Also what is no Exception: a panic in Rust, in which tokenizers are written.
        except BaseException as error:  # noqa: BLE001
            return _describe_failure(path, error)
        if read_signature(path) != before:
            engine.batcher.close()
            text = f"checkpoint {quote(str(path))}: its files changed while they were loaded"
            return CheckpointIncomplete(text, "path")
        return engine


def _raise_if_other(path: Path, identity: Mapping[str, str], last: _LastEngine) -> None:
    """
    Raises:
        CheckpointRefused: the checkpoint is not of the model that was in service last.
    """
    if difference := describe_difference(identity, last.identity):
        raise CheckpointRefused(
            f"checkpoint {quote(str(path))} is another model: {difference}", "path"
        )


def _describe_failure(path: Path, error: BaseException) -> RewardServerError:
    """What to raise when loading a checkpoint has failed."""
    text = f"checkpoint {quote(str(path))}: {describe_failure(error)}"
    if may_pass(error):
        return CheckpointNotLoaded(text, "path")
    if find_flaw(path):  # a file was deleted or written meanwhile
        return CheckpointIncomplete(text, "path")
    return CheckpointRefused(text, "path")


def may_pass(error: BaseException) -> bool:
    """Whether the same checkpoint may be loaded without an error later."""
    if isinstance(error, LoadFailed):  # on scorers elsewhere
        return error.may_pass
    from sar.scoring.transformers_scorer import is_out_of_memory
    from sar.scoring.vllm_process import VllmNotStarted

    if isinstance(error, VllmNotStarted):  # after the checkpoint was found to be good
        return True
    is_of_system = isinstance(error, OSError) or _RUST_SYSTEM_ERROR in str(error)
    return is_of_system or is_out_of_memory(error)
