"""Watches the rewards that the server gives for alarms: a gauge, and one log line for each change.

An alarm changes no reward. `LiveAlarms` takes decisions from a thread that is not a request's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from sar.alarms.monitor import DEFAULT_WINDOW, AlarmState, Monitor
from sar.decision import Decision
from sar.errors import shorten

_log = logging.getLogger(__name__)


class LiveAlarms:
    """The alarms of one server. A consumer of decisions, for `Watch`."""

    def __init__(
        self, read_newest_step: Callable[[], int] = lambda: 0, *, window: int = DEFAULT_WINDOW
    ) -> None:
        """
        Args:
            read_newest_step: the step of the newest checkpoint in the folder that the server
                follows; 0: it follows none. Called at the end of each block.
            window: rollouts in a window.
        Raises:
            ValueError: the window is no multiple of 8.
        """
        self._monitor = Monitor(window)
        self._read_newest_step = read_newest_step
        self._num_until_look = 0

    def add(self, decisions: Sequence[Decision]) -> None:
        """Watches further rollouts. Logs the alarms that begin or end with them."""
        for decision in decisions:
            self._add(decision)

    def _add(self, decision: Decision) -> None:
        if self._num_until_look <= 0:
            self._num_until_look = self._monitor.block_size
            self._monitor.note_newest_step(self._read_newest_step())
        self._num_until_look -= 1
        for state in self._monitor.add(decision):
            _log_change(state)

    def states(self) -> list[AlarmState]:
        """How all alarms stand. May be called from any thread."""
        return self._monitor.states()

    def read_gauge(self) -> Iterator[tuple[str, float]]:
        """For `Metrics.show_alarms`: each alarm's name, and 1 if it rings, else 0. Those that
        cannot be told yet are left out."""
        for state in self.states():
            if state.state != "unknown":
                yield state.alarm.name, float(state.state == "alarm")


def _log_change(state: AlarmState) -> None:
    # A message may have names of terms, which are whatever the reward file says.
    message = shorten(state.message)
    since = state.since
    assert since
    text = "alarm %s %s at rollout %d: %s"
    if state.state == "alarm":
        _log.warning(text, state.alarm.name, "begins", since.rollout, message)
    else:
        _log.info(text, state.alarm.name, "ends", since.rollout, message)
