"""Finds the processes of a training run, and removes what they leave behind.

A run of OpenRLHF has many processes, in sessions of their own. They all inherit a mark in their
environment. When vLLM's workers are told to end, they leave shared memory in /dev/shm.
"""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_NAME = "OPENRLHF_RUN"
_SHARED = Path("/dev/shm")  # noqa: S108
_SEGMENT = re.compile(r"(/dev/shm/psm_\S+)$", re.MULTILINE)  # of vLLM's message queues


class Leftovers:
    """The processes of one run, and their shared memory."""

    def __init__(self, mark: str | None = None) -> None:
        """
        Args:
            mark: of an earlier start, to find what is left of it.
        """
        mark = mark or uuid.uuid4().hex
        self.environ = {_NAME: mark}
        """Goes into the environment of the run's first process."""
        self._line = f"{_NAME}={mark}".encode()
        self._segments: set[Path] = set()
        self._pids: set[int] = set()

    def look(self) -> None:
        """Notes what the run uses now. Call it every few seconds: afterwards it cannot be told
        whose a segment was."""
        for pid in self._find_processes():
            self._pids.add(pid)
            with suppress(OSError):
                maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
                self._segments.update(map(Path, _SEGMENT.findall(maps)))

    def remove(self) -> None:
        """Ends what still runs, and removes its shared memory."""
        for pid in self._find_processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.remove_shared_memory()

    def remove_shared_memory(self) -> None:
        # Names of joblib's semaphores have their process's id.
        semaphores = (file for pid in self._pids for file in _SHARED.glob(f"sem.loky-{pid}-*"))
        for file in (*self._segments, *semaphores):
            file.unlink(missing_ok=True)

    def _find_processes(self) -> Iterator[int]:
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    if self._line in (folder / "environ").read_bytes().split(b"\0"):
                        yield int(folder.name)
