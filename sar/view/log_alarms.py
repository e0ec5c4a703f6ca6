"""The alarms of a reward log, for the page's strip.

A process of its own reads the log: a long one takes minutes, in which a thread would slow the page.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sar.alarms.audit import read_decisions
from sar.alarms.monitor import AlarmState, Monitor
from sar.rescore import RescoreError

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
            EOFError: the process that reads it was killed.
        """
        files = self._list_files()
        num_bytes = sum(file.stat().st_size for file in files)
        if num_bytes < self._num_bytes * _GROWTH or not num_bytes:
            return
        self._states, self._num_bytes = _read_apart(files), num_bytes

    def list(self) -> list[dict[str, Any]]:
        """The alarms as JSON objects."""
        return [state.to_json() for state in self._states]


def _read_apart(files: Sequence[Path]) -> list[AlarmState]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(files, theirs), daemon=True)
    process.start()
    theirs.close()
    with ours:
        result: list[AlarmState] | Exception = ours.recv()
    process.join()
    if isinstance(result, Exception):
        raise result
    return result


def _read(files: Sequence[Path], answer: Connection[list[AlarmState] | Exception, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also goes to the parent, which ends this
    os.nice(5)  # the page goes first
    monitor = Monitor()
    try:
        for decision in read_decisions(files, on_torn=lambda _: None):
            monitor.add(decision)
    except (OSError, RescoreError) as error:
        answer.send(error)
    else:
        answer.send(monitor.states())
