"""Watches a stream of decisions for alarms, live or from a log."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal

from sar.alarms.alarm import Alarm, Reading, View
from sar.alarms.definitions import ALARMS
from sar.alarms.groups import Groups
from sar.alarms.lag import Lag
from sar.alarms.measures import CORRECTNESS, measure
from sar.alarms.windows import BLOCKS_PER_WINDOW, Block, Window
from sar.decision import Decision

DEFAULT_WINDOW = 256
# Blocks in a row that must agree before an alarm begins, and before it ends.
_BLOCKS_TO_FIRE = 2
_BLOCKS_TO_CLEAR = BLOCKS_PER_WINDOW
# Of an alarm, as many rings are remembered.
_MAX_RINGS = 20

State = Literal["ok", "alarm", "unknown"]


@dataclass(frozen=True)
class Moment:
    """A rollout at which something changed."""

    rollout: int
    """Its number, from 1. Rollouts of mode "eval" do not count."""
    policy_version: str | int | None
    time: str
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class Ring:
    """One time that an alarm rang."""

    start: Moment
    """The first rollout of the window at whose end it began."""
    begin: Moment
    end: Moment | None = None
    """None: it still rings."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object of times and rollouts."""
        return {
            "start": self.start.time,
            "start_rollout": self.start.rollout,
            "begin": self.begin.time,
            "begin_rollout": self.begin.rollout,
            "policy_version": self.begin.policy_version,
            "end": self.end.time if self.end else None,
            "end_rollout": self.end.rollout if self.end else None,
        }


@dataclass(frozen=True)
class AlarmState:
    """How an alarm stands."""

    alarm: Alarm
    state: State = "unknown"
    """"unknown": too few rollouts have come to tell."""
    since: Moment | None = None
    """When the state became what it is. None if it has been so from the start."""
    value: float | None = None
    message: str = ""
    first: Moment | None = None
    """When the alarm fired first. None if it never did."""
    num_fired: int = 0
    rings: tuple[Ring, ...] = ()
    """The latest times that it rang, the last one last."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object. `since` is a time, `rollout` and `policy_version` are those of it."""
        since = self.since
        return {
            "name": self.alarm.name,
            "title": self.alarm.title,
            "meaning": self.alarm.meaning,
            "state": self.state,
            "since": since.time if since else None,
            "rollout": since.rollout if since else None,
            "policy_version": since.policy_version if since else None,
            "value": self.value,
            "threshold": self.alarm.threshold,
            "message": self.message,
            "rings": [ring.to_json() for ring in self.rings],
        }


@dataclass
class _Watched:
    """An alarm's state, and how many blocks in a row speak for another."""

    state: AlarmState
    num_agreeing: int = 0


class Monitor:
    """Watches decisions. `add` and `states` may be called from any thread.

    It holds sums over a few windows, whatever the number of rollouts. The alarms are read at the
    end of each block, which is 1/8 of a window.
    """

    def __init__(self, window: int = DEFAULT_WINDOW) -> None:
        """
        Args:
            window: rollouts in a window; a multiple of 8.
        Raises:
            ValueError: it is not.
        """
        if window < BLOCKS_PER_WINDOW or window % BLOCKS_PER_WINDOW:
            raise ValueError(f"window={window}: must be a multiple of {BLOCKS_PER_WINDOW}")
        self.block_size = window // BLOCKS_PER_WINDOW
        self._lock = threading.Lock()
        self._num = 0
        self._block = Block()
        self._start: list[Block] = []
        self._start_window: Window | None = None
        self._recent: deque[Block] = deque(maxlen=BLOCKS_PER_WINDOW)
        # The first rollout of each of these blocks, and of the block that is not whole yet.
        self._starts: deque[Moment] = deque(maxlen=BLOCKS_PER_WINDOW)
        self._block_start: Moment | None = None
        # Windows that end within the latest one. The next to leave no longer overlaps it.
        self._overlapping: deque[Window] = deque(maxlen=BLOCKS_PER_WINDOW)
        self._best: Window | None = None
        self._num_blocks = 0
        self._groups = Groups()
        self._lag = Lag(self.block_size)
        self._watched = [_Watched(AlarmState(alarm)) for alarm in ALARMS]

    @property
    def num_rollouts(self) -> int:
        """Rollouts that were watched."""
        return self._num

    def add(self, decision: Decision) -> list[AlarmState]:
        """Watches one more rollout. Rollouts of mode "eval" are left out: their reward is another.

        Returns:
            The alarms that began or ended with it.
        """
        if decision.mode == "eval":
            return []
        values = measure(decision)
        with self._lock:
            self._num += 1
            now = Moment(self._num, decision.policy_version, decision.time)
            self._block_start = self._block_start or now
            self._block.add(values)
            self._groups.add(decision)
            self._lag.add(decision.policy_version)
            if self._block.num < self.block_size:
                return []
            self._end_block()
            if len(self._recent) < BLOCKS_PER_WINDOW:
                return []
            return self._read_alarms(now)

    def note_newest_step(self, step: int) -> None:
        """Notes the step of the newest checkpoint, for a scorer that follows a trainer."""
        with self._lock:
            self._lag.note_newest(step)

    def states(self) -> list[AlarmState]:
        """How all alarms stand, in the order of `ALARMS`."""
        with self._lock:
            return [watched.state for watched in self._watched]

    def _end_block(self) -> None:
        block, self._block = self._block, Block()
        assert self._block_start
        self._starts.append(self._block_start)
        self._block_start = None
        self._recent.append(block)
        self._num_blocks += 1
        if self._num_blocks <= BLOCKS_PER_WINDOW:
            self._start.append(block)
        elif self._num_blocks == 2 * BLOCKS_PER_WINDOW:
            self._start_window, self._start = Window(self._start), []

    def _read_alarms(self, now: Moment) -> list[AlarmState]:
        recent = Window(self._recent)
        if len(self._overlapping) == BLOCKS_PER_WINDOW:
            self._note_earlier(self._overlapping[0])
        self._overlapping.append(recent)
        view = View(
            start=self._start_window,
            best=self._best,
            recent=recent,
            zero_variance=self._groups.measure_zero_variance(),
            lag=self._lag.num_checkpoints,
        )
        changed = []
        for watched in self._watched:
            reading = watched.state.alarm.read(view)
            if reading and _update(watched, reading, self._starts[0], now):
                changed.append(watched.state)
        return changed

    def _note_earlier(self, window: Window) -> None:
        if not self._best or window.mean(CORRECTNESS) > self._best.mean(CORRECTNESS):
            self._best = window


def _update(watched: _Watched, reading: Reading, start: Moment, now: Moment) -> bool:
    """Takes the value of a window that ends now. Returns True if the alarm began or ended."""
    before = watched.state
    alarm = before.alarm
    is_ringing = before.state == "alarm"
    if is_ringing:
        # What chance may have made is no alarm either: correctness may have come back, say.
        agrees = alarm.is_clear(reading.value) or not reading.is_sure
        num_needed = _BLOCKS_TO_CLEAR
    else:
        agrees = reading.is_sure and alarm.is_beyond(reading.value)
        num_needed = _BLOCKS_TO_FIRE
    watched.num_agreeing = watched.num_agreeing + 1 if agrees else 0
    has_changed = watched.num_agreeing >= num_needed
    after = replace(before, value=reading.value, message=reading.message)
    if has_changed:
        watched.num_agreeing = 0
        after = replace(after, state="ok" if is_ringing else "alarm", since=now)
        if is_ringing:
            ended = replace(before.rings[-1], end=now)
            after = replace(after, rings=(*before.rings[:-1], ended))
        else:
            rings = (*before.rings, Ring(start, now))[-_MAX_RINGS:]
            after = replace(
                after, first=before.first or now, num_fired=before.num_fired + 1, rings=rings
            )
    elif before.state == "unknown":
        after = replace(after, state="ok")
    watched.state = after
    return has_changed
