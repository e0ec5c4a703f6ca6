"""The alarms of a reward log, for the page's strip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sar.alarms.audit import read_decisions
from sar.alarms.monitor import AlarmState, Monitor

# An audit reads the whole log. A log that grows is read again only when it has grown by this much.
_GROWTH = 1.1


class LogAlarms:
    """How the alarms stand at the end of a log. `list` may be called from any thread."""

    def __init__(self, list_files: Callable[[], Sequence[Path]]) -> None:
        self._list_files = list_files
        self._states: list[AlarmState] = Monitor().states()  # "unknown"
        self._num_bytes = 0

    def update(self) -> None:
        """Reads the log, unless it is about as long as last time.

        Raises:
            OSError, RescoreError: the log cannot be read.
        """
        files = self._list_files()
        num_bytes = sum(file.stat().st_size for file in files)
        if num_bytes < self._num_bytes * _GROWTH or not num_bytes:
            return
        monitor = Monitor()
        for decision in read_decisions(files, on_torn=lambda _: None):
            monitor.add(decision)
        self._states, self._num_bytes = monitor.states(), num_bytes

    def list(self) -> list[dict[str, Any]]:
        """The alarms as JSON objects."""
        return [state.to_json() for state in self._states]
