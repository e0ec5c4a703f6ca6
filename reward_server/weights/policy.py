"""The scorer follows the policy: new weights in the place of old ones, between two requests.

SAR takes it that the policy scores itself, and the policy changes with every step. A request is
scored by the weights that it began with. Where memory allows, new weights are loaded beside the old
ones, which answer meanwhile; else the old ones finish what they have, and requests are held.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from reward_server.errors import CheckpointRefused, NotReady
from reward_server.pipeline.service import RewardService
from reward_server.weights.checkpoints import missing_from, step_of, steps_in
from reward_server.weights.engines import Engine
from sar.errors import one_line

_POLL_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Known:
    """What is remembered of an engine; the engine itself would keep its weights in memory."""

    path: str
    architecture: str
    version: int

    @classmethod
    def of(cls, engine: Engine) -> _Known:
        return cls(engine.path, engine.architecture, engine.version)


class PolicyUpdater:
    """Loads checkpoints into a service, one at a time."""

    def __init__(
        self,
        service: RewardService,
        load: Callable[[str], Engine],
    ) -> None:
        """
        Args:
            load: makes an engine of a checkpoint; raises whatever is wrong with it.
        """
        self._service = service
        self._load = load
        self._engines = service.engines
        self._last: _Known | None = None
        self._one_at_a_time = threading.Lock()
        self._stopping = threading.Event()
        self._asked: set[Future[int]] = set()

    def update(self, path: Path) -> Future[int]:
        """Takes a checkpoint into service; the future gives its policy version.

        The future raises `CheckpointRefused` for one that cannot be taken; the weights before it
        stay then. `NotReady`: there are none yet, or the server is stopping.
        """
        future: Future[int] = Future()
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        # A daemon, as loading may take minutes and the server is not to wait for it to stop.
        threading.Thread(target=self._run, args=(path, future), name="policy", daemon=True).start()
        return future

    def follow(self, folder: Path) -> None:
        """Takes each newest whole checkpoint of a trainer's folder, until `close`."""
        threading.Thread(target=self._follow, args=(folder,), name="follow", daemon=True).start()

    @property
    def is_loading(self) -> bool:
        """Whether a checkpoint is being taken into service."""
        return self._one_at_a_time.locked()

    def close(self) -> None:
        """Takes no more checkpoints; one that is being loaded is not waited for, and whoever asked
        for it gets `NotReady`."""
        self._stopping.set()
        for future in list(self._asked):
            with suppress(InvalidStateError):
                future.set_exception(NotReady("the server is stopping"))

    def _run(self, path: Path, future: Future[int]) -> None:
        try:
            self._raise_if_stopping()  # and not only once the one that is being loaded is done
            with self._one_at_a_time:
                self._raise_if_stopping()
                version = self._update(path)
        except Exception as error:  # noqa: BLE001  whoever asked for it must hear of it
            with suppress(InvalidStateError):  # `close` was sooner
                future.set_exception(error)
        else:
            with suppress(InvalidStateError):
                future.set_result(version)

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise NotReady("the server is stopping")

    def _follow(self, folder: Path) -> None:
        done = -1
        while not self._stopping.wait(_POLL_S):
            try:
                found = steps_in(folder)
            except OSError as error:
                _log.error("cannot read --follow %s: %s", folder, error)
                continue
            newer = {step: path for step, path in found.items() if step > done}
            # An older one that is whole is better than to wait for the newest.
            for step in sorted(newer, reverse=True):
                if missing_from(newer[step]):
                    continue
                done = step  # whether it can be taken or not
                self._wait_for(self.update(newer[step]))
                break

    def _wait_for(self, updating: Future[int]) -> None:
        try:
            updating.result()
        except CheckpointRefused:
            pass  # said and counted
        except NotReady as error:
            _log.info("a checkpoint was not taken: %s", error)
        except Exception:  # noqa: BLE001  the next one may be better
            _log.exception("a checkpoint could not be taken")

    def _update(self, path: Path) -> int:
        try:
            return self._take(path)
        except CheckpointRefused as error:
            self._service.count_refused_checkpoint()
            _log.error("%s", error)
            raise

    def _take(self, path: Path) -> int:
        if missing := missing_from(path):
            raise CheckpointRefused(f"checkpoint {str(path)!r} lacks {missing}", "path")
        started_s = time.monotonic()
        if self._has_room_beside():
            new = self._loaded(path)
            self._engines.replace(new)
        else:
            new = self._loaded_in_place(path)
            self._engines.start(new)
        self._last = _Known.of(new)
        took_s = time.monotonic() - started_s
        _log.info("policy version %d from %s, in %.1f s", new.version, path, took_s)
        return new.version

    def _has_room_beside(self) -> bool:
        """Also learns what is in service."""
        if current := self._engines.current:
            self._last = _Known.of(current)
            return current.fits_twice()
        return False

    def _loaded_in_place(self, path: Path) -> Engine:
        if self._engines.current:
            self._engines.withdraw()
        try:
            return self._loaded(path)
        except CheckpointRefused as error:
            refused = error
        self._go_back()
        raise refused

    def _go_back(self) -> None:
        last = self._known()
        try:
            engine = self._load(last.path)
        except Exception:  # noqa: BLE001  it has been written over, or removed
            _log.exception("%s is gone too: requests wait for the next checkpoint", last.path)
        else:
            self._engines.start(replace(engine, version=last.version))

    def _known(self) -> _Known:
        if not self._last:
            raise NotReady("the model is still loading")
        return self._last

    def _loaded(self, path: Path) -> Engine:
        last = self._known()
        engine, reason = None, ""
        try:
            engine = self._load(str(path))
        except Exception as error:  # noqa: BLE001  a broken checkpoint raises all sorts of things
            reason = one_line(error)
        # Outside of the handler, as the exception holds on to the weights in its frames.
        if engine is None:
            raise CheckpointRefused(f"checkpoint {str(path)!r}: {reason}", "path")
        if engine.architecture != last.architecture:
            engine.batcher.close()
            raise CheckpointRefused(
                f"checkpoint {str(path)!r} is another model, {engine.architecture} and not "
                f"{last.architecture}",
                "path",
            )
        step = step_of(path)
        return replace(engine, version=last.version + 1 if step is None else step)
