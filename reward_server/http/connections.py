"""How many connections may be open, so that the process never runs out of file descriptors.

Graders, the reward log and checkpoints need descriptors too, and a server that cannot accept is
unreachable. So a part of the descriptors is kept back. When the others are in use:

1. A new connection takes the place of the one that has waited longest for its client: idle, or in
   the middle of a request or an answer. A request that is being computed is never ended.
2. If all are being computed, a new connection gets answers to GET only, such as `/healthz`. A POST
   gets 503. So half of what is kept back serves connections, and half only the process itself.

How many descriptors the rest of the process has open is estimated from the number of each new
connection's descriptor: the system gives out the lowest number that is free.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import Any, Protocol

_MAX_KEPT_BACK = 1024
_LOG_INTERVAL_S = 60.0
# No connection is ended sooner: its request may be on its way.
_MIN_WAIT_S = 0.02

_log = logging.getLogger(__name__)


class Handled(Protocol):
    """A connection, as the listener handles it."""

    @property
    def waits_for_client(self) -> bool: ...

    @property
    def is_receiving(self) -> bool: ...

    def hang_up(self) -> None:
        """Ends the connection. Its descriptor becomes free a little later."""


class Connections:
    """The open connections of a listener. Used by one thread."""

    def __init__(self, num_descriptors: int) -> None:
        """
        Args:
            num_descriptors: as many as the process may have open.
        """
        kept_back = min(_MAX_KEPT_BACK, num_descriptors // 2)
        self._num_descriptors = num_descriptors
        self._first_kept_back = num_descriptors - kept_back
        self._first_for_process = num_descriptors - kept_back // 2
        self._max_closing = max(1, kept_back // 4)
        self._num_open = 0
        self._num_others = 0  # descriptors of the process itself, as far as seen
        self._handled: set[Handled] = set()
        self._waiting: dict[Handled, float] = {}  # since when (monotonic); longest first
        self._closing: set[Handled] = set()
        self._limited: set[Any] = set()
        self._is_starved = False
        self._next_log_s = 0.0

    def admit(self, connection: Any) -> bool:
        """Makes room for a connection just accepted. False if there is none: close it."""
        self._num_open += 1
        self._num_others = max(self._num_others, connection.fileno() + 1 - self._num_open)
        if self._num_used - len(self._closing) <= self._first_kept_back:
            return True
        self._log_once_a_minute()
        if not self._close_longest_waiting():
            if self._num_used > self._first_for_process:
                self._num_open -= 1
                return False
            self._limited.add(connection)
        return True

    @property
    def _num_used(self) -> int:
        return self._num_open + self._num_others

    def on_accept_error(self, error: OSError) -> None:
        """Makes room after a failed accept, if there was no descriptor for it."""
        self._is_starved = True
        if error.errno in (errno.EMFILE, errno.ENFILE):
            self._log_once_a_minute()
            self._close_longest_waiting()

    def must_pause(self) -> bool:
        """Whether to accept nothing for a moment, until descriptors are free."""
        is_starved, self._is_starved = self._is_starved, False
        longest_since = next(iter(self._waiting.values()), 0.0)
        is_early = time.monotonic() - longest_since < _MIN_WAIT_S
        is_full = self._num_used >= self._first_kept_back
        return is_starved or (is_full and is_early) or len(self._closing) >= self._max_closing

    def must_yield(self) -> bool:
        """Whether the connections that were just accepted must run before the next accept.

        Until then it cannot be told whether they wait for their client, and could be ended.
        """
        is_full = self._num_used >= self._first_kept_back
        return is_full and len(self._handled) < self._num_open

    def wait(self, handled: Handled) -> None:
        """Notes that from now on a connection waits for its client."""
        self._handled.add(handled)
        self._waiting.pop(handled, None)
        self._waiting[handled] = time.monotonic()

    def is_limited(self, connection: Any) -> bool:
        """Whether a connection gets answers to GET only."""
        return connection in self._limited

    def is_closing(self, handled: Handled) -> bool:
        """Whether the server itself has ended a connection, to make room or to stop."""
        return handled in self._closing

    def forget(self, handled: Handled, connection: Any) -> None:
        """Notes that a connection is closed."""
        self._num_open -= 1
        self._handled.discard(handled)
        self._waiting.pop(handled, None)
        self._closing.discard(handled)
        self._limited.discard(connection)

    def end_receiving(self) -> None:
        """Ends every connection whose client has not sent a whole request."""
        for handled in [one for one in self._handled if one.is_receiving]:
            self._close(handled)

    def _close_longest_waiting(self) -> bool:
        while self._waiting:
            handled = next(iter(self._waiting))
            del self._waiting[handled]
            if handled.waits_for_client:  # else it waits again when its answer is sent
                self._close(handled)
                return True
        return False

    def _close(self, handled: Handled) -> None:
        self._waiting.pop(handled, None)
        self._closing.add(handled)
        handled.hang_up()

    def _log_once_a_minute(self) -> None:
        if time.monotonic() >= self._next_log_s:
            self._next_log_s = time.monotonic() + _LOG_INTERVAL_S
            _log.warning(
                "too many open connections for %d file descriptors (ulimit -n): ending those that "
                "wait longest for their client; this line comes once a minute",
                self._num_descriptors,
            )
