"""Hands the decision of every reward to those who watch the run: the dashboard, the alarms.

A request only puts its decisions in a queue. One thread hands them on, some at a time. When the
queue is full, new decisions are dropped and counted. No request waits or fails because somebody
watches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from sar.decision import Decision

Consumer = Callable[[Sequence[Decision]], object]

# How long decisions may gather. A wake-up for each would cost more than the work.
_GATHER_S = 0.2
_MAX_AT_ONCE = 64
_WARN_EVERY_S = 60.0

_log = logging.getLogger(__name__)


class Watch:
    """Calls consumers with new decisions, in a thread. Any thread may call `offer`."""

    def __init__(
        self,
        consumers: Sequence[Consumer],
        *,
        max_queued: int = 10_000,
        max_queued_chars: int = 32 * 2**20,
    ) -> None:
        """
        Args:
            consumers: called with decisions in the order of their rewards. One that raises misses
                these decisions, and others do not.
            max_queued, max_queued_chars: decisions, and characters of their texts, that may wait.
        """
        self.num_dropped = 0
        """Decisions that were not handed on, as the queue was full."""
        self._consumers = consumers
        self._max_queued = max_queued
        self._max_queued_chars = max_queued_chars
        self._queue: deque[Decision] = deque()
        self._queued_chars = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._warned_at_s = -_WARN_EVERY_S
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def offer(self, decision: Decision) -> None:
        """Queues a decision. Never waits for a consumer, never raises."""
        num_chars = _count_chars(decision)
        with self._changed:
            is_full = (
                len(self._queue) >= self._max_queued
                or self._queued_chars + num_chars > self._max_queued_chars
            )
            if is_full or self._is_closed:
                self.num_dropped += 1
                return
            self._queue.append(decision)
            self._queued_chars += num_chars
            if len(self._queue) == 1:
                self._changed.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends the thread. What is queued is not handed on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._is_closed:
            with self._changed:
                while not self._queue and not self._is_closed:
                    self._changed.wait()
            time.sleep(_GATHER_S)
            while self._queue and not self._is_closed:
                self._hand_on()
                time.sleep(0)  # requests go first

    def _hand_on(self) -> None:
        with self._changed:
            decisions = list(islice(self._queue, _MAX_AT_ONCE))
        for consumer in self._consumers:
            try:
                consumer(decisions)
            except Exception:  # noqa: BLE001  whoever watches must not end the watch
                self._warn()
        with self._changed:  # they counted as queued until now
            for decision in decisions:
                self._queue.popleft()
                self._queued_chars -= _count_chars(decision)

    def _warn(self) -> None:
        now_s = time.monotonic()
        if now_s - self._warned_at_s >= _WARN_EVERY_S:
            self._warned_at_s = now_s
            _log.error("the dashboard or an alarm misses some rollouts", exc_info=True)


def _count_chars(decision: Decision) -> int:
    return len(decision.prompt) + len(decision.response)
