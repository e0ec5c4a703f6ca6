"""The reward log of `--reward-log DIR`: one JSON line for each reward, with how it came about.

A request only puts its decisions in a queue. A thread formats them and writes them, one complete
line at a time. While the disk cannot be written, decisions wait in the queue. When the queue is
full, new decisions are dropped and counted. No request waits or fails because of the log.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sar.decision import Decision

_RETRY_S = 1.0
_WARN_EVERY_S = 60.0
# Rough memory of a decision besides its texts.
_OVERHEAD_CHARS = 2000

_log = logging.getLogger(__name__)


class RewardLog:
    """Writes decisions to files in a folder. `record` may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        max_file_bytes: int = 256 * 2**20,
        max_queued_chars: int = 128 * 2**20,
    ) -> None:
        """
        Args:
            directory: created if it does not exist, for this user only, as the files are. One that
                exists keeps its mode, with a warning if other users may read it. Files of earlier
                runs are kept.
            max_file_bytes: a line that would make a file larger goes into the next file.
            max_queued_chars: text that may wait to be written. Bounds the memory of the queue.
        Raises:
            OSError: no file can be created there.
        """
        self.num_dropped = 0
        """Decisions that were not written: queue full, log closed, or not representable as JSON."""
        self._file = _RotatedFile(directory, max_file_bytes)
        _warn_if_open_to_others(directory)
        self._max_queued_chars = max_queued_chars
        self._queue: deque[Decision] = deque()
        self._queued_chars = 0
        self._changed = threading.Condition()
        self._close_deadline_s: float | None = None
        self._last_errors_s: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="reward-log", daemon=True)
        self._thread.start()

    @property
    def num_queued(self) -> int:
        """Decisions that are not written yet, including the one that is being written."""
        return len(self._queue)

    def record(self, decisions: Iterable[Decision]) -> None:
        """Queues decisions to be written. Never waits for the disk, never raises."""
        num_dropped = 0
        with self._changed:
            for decision in decisions:
                size = _size_chars(decision)
                is_full = self._queued_chars + size > self._max_queued_chars
                if is_full or self._close_deadline_s is not None:
                    num_dropped += 1
                else:
                    self._queue.append(decision)
                    self._queued_chars += size
            self.num_dropped += num_dropped
            self._changed.notify()
        if num_dropped:
            self._log_error("the reward log's queue is full or closed: decisions are not logged")

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes the queued decisions. Drops and counts those not written within `timeout_s`."""
        with self._changed:
            if self._close_deadline_s is not None:
                return
            self._close_deadline_s = time.monotonic() + timeout_s
            self._changed.notify()
        self._thread.join(timeout_s + _RETRY_S)
        with self._changed:
            num_left = len(self._queue)
            self._queue.clear()
            self.num_dropped += num_left
        if num_left:
            _log.error("%d decisions could not be written to the reward log in time", num_left)
        if self._thread.is_alive():
            return  # a write hangs; the thread ends with the process
        try:
            self._file.close()
        except OSError as error:  # a network file system may report a failed write only now
            _log.error("the reward log was not closed properly: %s", error)

    def _run(self) -> None:
        while decision := self._wait_for_next():
            try:
                line = (decision.to_json() + "\n").encode()
            except Exception:  # noqa: BLE001  one bad decision must not end the log
                self._log_error("a decision cannot be written as JSON", with_traceback=True)
                was_written = False
            else:
                was_written = self._write(line)
            self._remove_first(decision, was_written)

    def _wait_for_next(self) -> Decision | None:
        """Returns the oldest decision, which stays in the queue; None once the log is closed."""
        with self._changed:
            while not self._queue and self._close_deadline_s is None:
                self._changed.wait()
            return self._queue[0] if self._queue and not self._is_past_deadline() else None

    def _remove_first(self, decision: Decision, was_written: bool) -> None:
        with self._changed:
            if not self._queue:  # `close` has dropped and counted it
                return
            self._queue.popleft()
            self._queued_chars -= _size_chars(decision)
            self.num_dropped += not was_written

    def _write(self, line: bytes) -> bool:
        """Retries until the line is written. False if the deadline of `close` passes first."""
        has_failed = False
        while True:
            try:
                self._file.write(line)
            except OSError as error:
                has_failed = True
                self._log_error(f"cannot write the reward log, decisions wait: {error}")
                if self._is_past_deadline():
                    return False
                time.sleep(_RETRY_S)
            else:
                if has_failed:
                    _log.warning("the reward log is written again; %d dropped", self.num_dropped)
                return True

    def _is_past_deadline(self) -> bool:
        return self._close_deadline_s is not None and time.monotonic() >= self._close_deadline_s

    def _log_error(self, message: str, *, with_traceback: bool = False) -> None:
        """Logs an error, at most once a minute for each kind: the text before the first colon."""
        now_s = time.monotonic()
        kind = message.partition(":")[0]
        if now_s - self._last_errors_s.get(kind, -_WARN_EVERY_S) < _WARN_EVERY_S:
            return
        self._last_errors_s[kind] = now_s
        _log.error(
            "%s (%d queued, %d dropped so far)",
            message,
            self.num_queued,
            self.num_dropped,
            exc_info=with_traceback,
        )


class _RotatedFile:
    """Appends lines to numbered files. Creates the first file at once, so that a folder that cannot
    be written is an error at the start."""

    def __init__(self, directory: Path, max_file_bytes: int) -> None:
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self._directory = directory
        self._prefix = f"rewards-{start}-{os.getpid()}"
        self._max_file_bytes = max_file_bytes
        self._next_number = 1
        self._size_bytes = 0
        self._path = directory
        self._fd: int | None = None
        self._open_next()

    def write(self, line: bytes) -> None:
        """Writes the whole line, or nothing of it and raises `OSError`."""
        fd = self._select_file(line)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(fd, rest) :]
        except OSError:
            self._remove_partial_line(fd)
            raise
        self._size_bytes += len(line)

    def close(self) -> None:
        """Closes the current file, and deletes it if it is empty."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        os.close(fd)
        if self._size_bytes == 0:
            with suppress(FileNotFoundError):
                self._path.unlink()

    def _select_file(self, line: bytes) -> int:
        """The current file, or a new one if that is full, closed or deleted."""
        # A line longer than any file may be gets a file of its own.
        is_full = self._size_bytes > 0 and self._size_bytes + len(line) > self._max_file_bytes
        if self._fd is not None and not is_full and os.fstat(self._fd).st_nlink > 0:
            return self._fd
        self.close()
        return self._open_next()

    def _open_next(self) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = None
        while fd is None:
            path = self._directory / f"{self._prefix}-{self._next_number:05d}.jsonl"
            # Servers in two containers can have the same process id and start in the same second.
            with suppress(FileExistsError):
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            self._next_number += 1
        self._fd, self._path, self._size_bytes = fd, path, 0
        return fd

    def _remove_partial_line(self, fd: int) -> None:
        """Truncates the file to its complete lines. If that fails, closes it: the partial line
        stays the file's last."""
        try:
            os.ftruncate(fd, self._size_bytes)
        except OSError:
            self._size_bytes += 1  # so that `close` does not delete the file as empty
            self.close()


def _warn_if_open_to_others(directory: Path) -> None:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning(
            "--reward-log %s is open to other users (mode %o). They cannot read its new files, but "
            "may read older ones; to close it: chmod -R go= %s",
            directory,
            mode,
            directory,
        )


def _size_chars(decision: Decision) -> int:
    texts = (decision.prompt, decision.response, str(decision.label), decision.answer or "")
    return _OVERHEAD_CHARS + sum(map(len, texts))
