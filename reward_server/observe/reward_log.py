"""The log of decisions, for `--reward-log DIR`: JSON lines, written off the request path.

What a request does is put its decisions in a queue; a thread turns them into text and writes them,
a whole line at a time. While the disk refuses, lines wait in the queue; when that is full, the
newest are dropped and counted. No request waits or fails for its log.
"""

from __future__ import annotations

import logging
import os
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
# What a decision takes in memory beside its texts, roughly.
_OVERHEAD_CHARS = 2000

_log = logging.getLogger(__name__)


class RewardLog:
    """Writes decisions to a folder. `record` may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        max_file_bytes: int = 256 * 2**20,
        max_queued_chars: int = 128 * 2**20,
    ) -> None:
        """
        Args:
            directory: made if it is not there. Files of earlier runs in it stay.
            max_file_bytes: a line that would make a file longer goes into the next one.
            max_queued_chars: text that may wait to be written; it bounds the memory this takes.
        Raises:
            OSError: no file can be written there.
        """
        self.num_dropped = 0
        """Decisions that are lost to the log: the queue was full, or the time to close over."""
        self._file = _RotatedFile(directory, max_file_bytes)
        self._max_queued_chars = max_queued_chars
        self._queue: deque[Decision] = deque()
        self._queued_chars = 0
        self._changed = threading.Condition()
        self._close_by: float | None = None
        self._complaints: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="reward-log", daemon=True)
        self._thread.start()

    @property
    def num_queued(self) -> int:
        """Decisions that are not written yet; the one in hand counts."""
        return len(self._queue)

    def record(self, decisions: Iterable[Decision]) -> None:
        """Queues decisions to be written. Never waits for the disk and never raises."""
        num_dropped = 0
        with self._changed:
            for decision in decisions:
                size = _size_chars(decision)
                is_full = self._queued_chars + size > self._max_queued_chars
                if is_full or self._close_by is not None:
                    num_dropped += 1
                else:
                    self._queue.append(decision)
                    self._queued_chars += size
            self.num_dropped += num_dropped
            self._changed.notify()
        if num_dropped:
            self._complain("the reward log's queue is full or closed: decisions are not logged")

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what is queued, for so long; the rest is dropped and counted."""
        with self._changed:
            if self._close_by is not None:
                return
            self._close_by = time.monotonic() + timeout_s
            self._changed.notify()
        self._thread.join(timeout_s + _RETRY_S)
        with self._changed:
            num_left = len(self._queue)
            self._queue.clear()
            self.num_dropped += num_left
        if num_left:
            _log.error("%d decisions could not be written to the reward log in time", num_left)
        if self._thread.is_alive():
            return  # it hangs in a write, and ends with the process
        try:
            self._file.close()
        except OSError as error:  # a network file system may say only now that it failed
            _log.error("the reward log was not closed properly: %s", error)

    def _run(self) -> None:
        while decision := self._next():
            try:
                line = (decision.to_json() + "\n").encode()
            except Exception:  # noqa: BLE001  one bad record must not end the log
                self._complain("a decision cannot be written as JSON", with_traceback=True)
                was_written = False
            else:
                was_written = self._write(line)
            self._done(decision, was_written)

    def _next(self) -> Decision | None:
        """Waits for the oldest decision, which stays in the queue; None when all is over."""
        with self._changed:
            while not self._queue and self._close_by is None:
                self._changed.wait()
            return self._queue[0] if self._queue and not self._is_over() else None

    def _done(self, decision: Decision, was_written: bool) -> None:
        with self._changed:
            if not self._queue:  # `close` has given up on it, and counted it
                return
            self._queue.popleft()
            self._queued_chars -= _size_chars(decision)
            self.num_dropped += not was_written

    def _write(self, line: bytes) -> bool:
        """Tries until the disk takes the line; False if the time to close was over before."""
        has_failed = False
        while True:
            try:
                self._file.write(line)
            except OSError as error:
                has_failed = True
                self._complain(f"cannot write the reward log, decisions wait: {error}")
                if self._is_over():
                    return False
                time.sleep(_RETRY_S)
            else:
                if has_failed:
                    _log.warning("the reward log is written again; %d dropped", self.num_dropped)
                return True

    def _is_over(self) -> bool:
        return self._close_by is not None and time.monotonic() >= self._close_by

    def _complain(self, message: str, *, with_traceback: bool = False) -> None:
        """Logs an error, each kind once a minute."""
        now = time.monotonic()
        kind = message.partition(":")[0]
        if now - self._complaints.get(kind, -_WARN_EVERY_S) < _WARN_EVERY_S:
            return
        self._complaints[kind] = now
        _log.error(
            "%s (%d queued, %d dropped so far)",
            message,
            self.num_queued,
            self.num_dropped,
            exc_info=with_traceback,
        )


class _RotatedFile:
    """Whole lines in numbered files; the first is made at once, to learn whether one can be."""

    def __init__(self, directory: Path, max_file_bytes: int) -> None:
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        self._directory = directory
        self._prefix = f"rewards-{start}-{os.getpid()}"
        self._max_file_bytes = max_file_bytes
        self._number = 0
        self._size_bytes = 0
        self._path = directory
        self._fd: int | None = None
        self._open_next()

    def write(self, line: bytes) -> None:
        """Writes all of the line or, with an `OSError`, nothing of it."""
        if self._fd is None or self._is_full(line) or os.fstat(self._fd).st_nlink == 0:
            self.close()  # where the file was deleted, what is written would be lost unseen
            self._open_next()
        assert self._fd is not None
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            self._take_back()
            raise
        self._size_bytes += len(line)

    def close(self) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        os.close(fd)
        if self._size_bytes == 0:
            with suppress(FileNotFoundError):
                self._path.unlink()

    def _is_full(self, line: bytes) -> bool:
        """Whether the line belongs into the next file; one too long for any has its own."""
        return 0 < self._size_bytes > self._max_file_bytes - len(line)

    def _open_next(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        while self._fd is None:
            path = self._directory / f"{self._prefix}-{self._number + 1:05d}.jsonl"
            # Of two servers in containers, both can be process 1 of the same second.
            with suppress(FileExistsError):
                self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
                self._path, self._size_bytes = path, 0
            self._number += 1

    def _take_back(self) -> None:
        """Removes part of a line; if even that fails, the file ends with it."""
        assert self._fd is not None
        try:
            os.ftruncate(self._fd, self._size_bytes)
        except OSError:
            self._size_bytes += 1  # it is not empty
            self.close()


def _size_chars(decision: Decision) -> int:
    texts = (decision.prompt, decision.response, str(decision.label), decision.answer or "")
    return _OVERHEAD_CHARS + sum(map(len, texts))
