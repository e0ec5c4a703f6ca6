"""Looks for new checkpoints in a trainer's folder, and has each new complete one loaded.

Nothing that is found there ends the follower: a checkpoint that is not complete is looked at again,
a load that failed is tried again, and what stays wrong is said in the log and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from reward_server.errors import CheckpointIncomplete, CheckpointRefused, NotReady
from reward_server.pipeline.engine import EngineSlot
from reward_server.weights.checkpoints import (
    find_deepspeed_checkpoint,
    find_flaw,
    list_checkpoints,
    read_signature,
)
from reward_server.weights.policy import PolicyUpdater
from sar.errors import one_line

_POLL_S = 2.0
# How long a checkpoint may stay incomplete, and the folder empty, before that is said.
_PATIENCE_S = 60.0
# How long the files of a checkpoint may go on changing before that is said.
_MAX_WRITING_S = 600.0
# An incomplete checkpoint is read again when one of its files changes, and after this time: the
# system may have failed to read it.
_READ_AGAIN_S = 30.0
# A load that failed is tried again after this time, then after twice the time, and so on.
_FIRST_RETRY_S = 10.0
_MAX_RETRY_S = 600.0
_STILL_CHANGING = "its files still change"

_log = logging.getLogger(__name__)


@dataclass
class _Candidate:
    """A checkpoint that may be loaded: newer than the one in service, or that one, whose files may
    change. Times are those of `time.monotonic()`."""

    path: Path
    seen_at_s: float
    changed_at_s: float = 0.0
    signature: Hashable = None
    flaw: str = ""
    """Why it is not complete; empty if it is."""
    read_again_at_s: float = 0.0
    retry_s: float = _FIRST_RETRY_S
    retry_at_s: float = 0.0
    is_refused: bool = False
    """Not to be loaded unless its files change."""
    reported_flaw: str = ""
    """The flaw that the log has named."""
    loaded_signature: Hashable = None
    """Of the files that are in service; None if none are."""

    def inspect(self, now_s: float) -> None:
        """Finds out whether the checkpoint is complete. Files that have changed since the last
        look may still be changing, even if they are complete by what they contain."""
        signature = read_signature(self.path)
        if signature != self.signature:
            self.signature, self.changed_at_s = signature, now_s
            self.flaw, self.read_again_at_s = _STILL_CHANGING, now_s
            self.retry_s, self.retry_at_s, self.is_refused = _FIRST_RETRY_S, now_s, False
        elif self.flaw and now_s >= self.read_again_at_s:
            self.flaw, self.read_again_at_s = find_flaw(self.path), now_s + _READ_AGAIN_S

    @property
    def is_in_service(self) -> bool:
        """Whether its files are those that were loaded."""
        return self.signature == self.loaded_signature

    def is_stuck(self, now_s: float) -> bool:
        """Whether it has been incomplete for longer than a trainer needs to write it."""
        is_late = (
            now_s - self.changed_at_s >= _PATIENCE_S or now_s - self.seen_at_s >= _MAX_WRITING_S
        )
        return bool(self.flaw) and is_late

    def note_failure(self, error: BaseException, now_s: float) -> None:
        """Decides what follows after it could not be loaded."""
        if isinstance(error, CheckpointIncomplete):
            self.flaw, self.read_again_at_s = str(error), now_s
        elif isinstance(error, CheckpointRefused):
            self.is_refused = True
        else:
            _log.warning("checkpoint %s is tried again in %.0f s", self.path, self.retry_s)
            self.retry_at_s = now_s + self.retry_s
            self.retry_s = min(2 * self.retry_s, _MAX_RETRY_S)


@dataclass(frozen=True)
class _Loading:
    """A checkpoint that is being loaded."""

    step: int
    signature: Hashable
    """Of its files when the load began."""
    version: Future[int]


class Follower:
    """Follows the checkpoints of one folder."""

    def __init__(self, folder: Path, updater: PolicyUpdater, engines: EngineSlot) -> None:
        """
        Args:
            folder: holds `global_step{N}_hf`. Need not exist yet.
            updater: loads the checkpoints. The follower ends when it is closed.
            engines: counts what happens.
        """
        self._folder = folder
        self._updater = updater
        self._engines = engines
        self._counters = engines.checkpoints
        self._started_s = time.monotonic()
        self._counters.looked_at_s = self._started_s
        self._last_step = -1
        self._candidates: dict[int, _Candidate] = {}
        self._loading: _Loading | None = None
        self._reported: set[str] = set()

    def start(self) -> None:
        """Follows in a thread of its own."""
        threading.Thread(target=self._run, name="follow", daemon=True).start()

    def look(self, now_s: float) -> None:
        """Looks at the folder once. Logs and counts errors; raises none.

        Args:
            now_s: `time.monotonic()`.
        """
        try:
            self._look(now_s)
        except NotReady:
            pass  # the server is stopping
        except OSError as error:
            self._counters.num_failed_looks += 1
            self._report_once(
                f"cannot read --follow {self._folder}: {error.strerror or one_line(error)}: the "
                "server looks again"
            )
        except Exception as error:  # noqa: BLE001  nothing may end the follower
            self._counters.num_failed_looks += 1
            if type(error).__name__ not in self._reported:
                self._reported.add(type(error).__name__)
                _log.exception("a look at --follow %s failed: the server looks again", self._folder)
        else:
            self._counters.looked_at_s = now_s

    def _run(self) -> None:
        while not self._updater.wait_for_close(_POLL_S):
            self.look(time.monotonic())

    def _look(self, now_s: float) -> None:
        self._end_load(now_s)
        found = list_checkpoints(self._folder)
        self._counters.newest_step = max(found, default=0)
        if not found and now_s - self._started_s >= _PATIENCE_S:
            self._report_empty_folder()
        engine = self._engines.current
        # /update_weights may have loaded a later step than this follower.
        last_step = max(self._last_step, engine.version if engine and engine.version else -1)
        # The step in service is looked at again: its files may change after they were loaded.
        first_step = last_step if last_step == self._last_step else last_step + 1
        steps = sorted((step for step in found if step >= first_step), reverse=True)
        if found and max(found) < last_step:
            self._report_once(
                f"--follow {self._folder} holds only steps before {last_step}, the one in service: "
                "after a run is started over, restart the server"
            )
        self._candidates = {
            step: self._candidates.get(step) or _Candidate(found[step], now_s) for step in steps
        }
        num_incomplete = 0
        # The newest first; if it is not complete yet, an older one is better than waiting.
        for step in steps:
            candidate = self._candidates[step]
            if self._loading and step <= self._loading.step:
                break
            candidate.inspect(now_s)
            if candidate.is_in_service:
                continue
            if candidate.is_stuck(now_s):
                num_incomplete += 1
                self._report_stuck(candidate)
            if not candidate.flaw and not candidate.is_refused:
                if not self._loading and now_s >= candidate.retry_at_s:
                    self._load(step, candidate)
                if self._loading:
                    break
        self._counters.num_incomplete = num_incomplete

    def _load(self, step: int, candidate: _Candidate) -> None:
        version = self._updater.update(candidate.path, source="follower")
        self._loading = _Loading(step, candidate.signature, version)

    def _end_load(self, now_s: float) -> None:
        """Takes the result of a load that has ended."""
        if not self._loading or not self._loading.version.done():
            return
        loading, self._loading = self._loading, None
        candidate = self._candidates.get(loading.step)  # None if it was deleted meanwhile
        if error := loading.version.exception():
            if candidate:
                candidate.note_failure(error, now_s)
            return
        if loading.step == self._last_step:
            _log.warning("step %d changed after it was loaded, and was loaded again", loading.step)
        self._last_step = loading.step
        if candidate:
            candidate.loaded_signature = loading.signature

    def _report_stuck(self, candidate: _Candidate) -> None:
        if candidate.reported_flaw != candidate.flaw:
            candidate.reported_flaw = candidate.flaw
            text = "checkpoint %s stays incomplete and is not loaded: %s"
            _log.warning(text, candidate.path, candidate.flaw)

    def _report_empty_folder(self) -> None:
        if not self._folder.is_dir():
            self._report_once(
                f"there is still no folder --follow {self._folder}: is it the trainer's "
                "--ckpt.path, and mounted here? The server goes on looking"
            )
        elif shards := find_deepspeed_checkpoint(self._folder):
            self._report_once(
                f"--follow {self._folder} holds only DeepSpeed's own checkpoints ({shards.name}), "
                "which the server cannot load: train with --ckpt.save_hf"
            )
        else:
            self._report_once(
                f"--follow {self._folder} holds no global_stepN_hf: is it the trainer's "
                "--ckpt.path, and does it save with --ckpt.save_hf? The server goes on looking"
            )

    def _report_once(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            _log.warning("%s", message)
