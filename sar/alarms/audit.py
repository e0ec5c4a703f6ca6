"""Watches a whole reward log for alarms: `python -m sar audit`.

Memory does not grow with the length of the log.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from sar.alarms.definitions import ALARMS
from sar.alarms.monitor import DEFAULT_WINDOW, AlarmState, Moment, Monitor
from sar.alarms.windows import BLOCKS_PER_WINDOW
from sar.decision import Decision
from sar.rescore import read_log

_MAX_POINTS = 400
_FILE_NUMBER = re.compile(r"-\d+\.jsonl$")


@dataclass
class Line:
    """An alarm's values over a log. Of a long log, some are left out, evenly."""

    points: list[tuple[int, float]] = field(default_factory=list)
    """Number of the rollout, and the value there."""
    _every: int = 1
    _num_seen: int = 0

    def add(self, rollout: int, value: float) -> None:
        self._num_seen += 1
        if self._num_seen % self._every:
            return
        self.points.append((rollout, value))
        if len(self.points) >= _MAX_POINTS:
            del self.points[::2]
            self._every *= 2


@dataclass(frozen=True)
class Finding:
    """What one alarm did over a log."""

    state: AlarmState
    """At the log's end."""
    first_message: str
    """What the alarm said when it fired first; empty if it never did."""
    rings: Sequence[tuple[int, int | None]]
    """At which rollout it began, and at which it ended; None: it rings at the log's end."""
    line: Line

    def to_json(self) -> dict[str, Any]:
        alarm, first = self.state.alarm, self.state.first
        return {
            "name": alarm.name,
            "title": alarm.title,
            "fired": first is not None,
            "num_fired": self.state.num_fired,
            "rings": [list(ring) for ring in self.rings],
            "first": None if first is None else {**vars(first), "message": self.first_message},
            "state": self.state.state,
            "value": self.state.value,
            "message": self.state.message,
            "threshold": alarm.threshold,
            "definition": alarm.definition,
            "window": alarm.window,
            "reason": alarm.reason,
        }


@dataclass(frozen=True)
class Audit:
    """What all alarms did over a log."""

    window: int
    num_rollouts: int
    num_eval: int
    """Rollouts of mode "eval", which were left out."""
    first: Moment | None
    last: Moment | None
    findings: Sequence[Finding]

    @property
    def has_fired(self) -> bool:
        return self.earliest is not None

    @property
    def earliest(self) -> Finding | None:
        """The alarm that fired before all others. None: none fired."""
        fired = [(one.state.first.rollout, one) for one in self.findings if one.state.first]
        return min(fired, key=lambda pair: pair[0])[1] if fired else None

    @property
    def is_too_short(self) -> bool:
        """True if there was nothing to compare the run's start with."""
        return self.num_rollouts < 2 * self.window

    def to_json(self) -> dict[str, Any]:
        return {
            "window": self.window,
            "num_rollouts": self.num_rollouts,
            "num_eval_left_out": self.num_eval,
            "first": vars(self.first) if self.first else None,
            "last": vars(self.last) if self.last else None,
            "alarms": [finding.to_json() for finding in self.findings],
        }


def audit(decisions: Iterable[Decision], *, window: int = DEFAULT_WINDOW) -> Audit:
    """Watches decisions, in their order.

    Raises:
        ValueError: the window is no multiple of 8.
    """
    monitor = Monitor(window)
    lines = {alarm.name: Line() for alarm in ALARMS}
    messages: dict[str, str] = {}
    rings: dict[str, list[tuple[int, int | None]]] = {alarm.name: [] for alarm in ALARMS}
    first = last = None
    num_eval = 0
    for decision in decisions:
        if decision.mode == "eval":
            num_eval += 1
            continue
        for state in monitor.add(decision):
            own = rings[state.alarm.name]
            if state.state == "alarm":
                messages.setdefault(state.alarm.name, state.message)
                own.append((monitor.num_rollouts, None))
            else:
                own[-1] = (own[-1][0], monitor.num_rollouts)
        last = Moment(monitor.num_rollouts, decision.policy_version, decision.time)
        first = first or last
        if monitor.num_rollouts % (window // BLOCKS_PER_WINDOW) == 0:
            _draw(lines, monitor)
    findings = [
        Finding(
            state,
            messages.get(state.alarm.name, ""),
            rings[state.alarm.name],
            lines[state.alarm.name],
        )
        for state in monitor.states()
    ]
    return Audit(window, monitor.num_rollouts, num_eval, first, last, findings)


def read_decisions(
    files: Sequence[Path],
    *,
    on_torn: Callable[[str], None],
    on_bytes: Callable[[int], object] = lambda _: None,
) -> Iterator[Decision]:
    """The decisions of log files. If several servers wrote at the same time, theirs are merged by
    time.

    Raises:
        RescoreError: a line is not a decision.
    """
    by_server: dict[str, list[Path]] = {}
    for file in files:
        by_server.setdefault(_FILE_NUMBER.sub("", str(file)), []).append(file)
    logs = [
        chain.from_iterable(read_log(file, on_torn=on_torn, on_bytes=on_bytes) for file in own)
        for own in by_server.values()
    ]
    for logged in heapq.merge(*logs, key=lambda logged: logged.decision.time):
        yield logged.decision


def _draw(lines: dict[str, Line], monitor: Monitor) -> None:
    for state in monitor.states():
        if state.value is not None:
            lines[state.alarm.name].add(monitor.num_rollouts, state.value)
