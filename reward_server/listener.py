"""The HTTP server: waitress, set up for as many requests in flight as there are threads."""

from __future__ import annotations

import logging
import resource
import threading
import time
from collections.abc import Callable
from typing import Any

from waitress import create_server

_MAX_DESCRIPTORS = 65536
# Model files, grader pipes, logs.
_OTHER_DESCRIPTORS = 256
_DRAIN_POLL_S = 0.05


class Listener:
    """Answers requests in threads of its own, from the moment it is made.

    A request holds its thread until its reward is there, so threads have to outnumber the requests
    in flight, or batches stay small.
    """

    def __init__(self, app: Callable[..., Any], *, host: str, port: int, threads: int) -> None:
        """
        Args:
            port: 0 takes a free one.
        Raises:
            OSError, ValueError: it cannot listen there.
        """
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a queue is normal here
        num_descriptors = _raise_descriptor_limit()
        self._sockets: dict[int, Any] = {}
        self._server = create_server(
            app,
            map=self._sockets,
            host=host,
            port=port,
            threads=threads,
            connection_limit=max(1, min(num_descriptors - _OTHER_DESCRIPTORS, 4 * threads)),
            backlog=4096,
            # Only a connection that is read while its request is computed shows that its client
            # has gone (`waitress.client_disconnected` in the environment).
            channel_request_lookahead=1,
            asyncore_use_poll=True,  # select() ends at 1,024 file descriptors
            ident=None,
        )
        threading.Thread(target=self._server.run, name="http", daemon=True).start()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each socket it listens on."""
        if listening := getattr(self._server, "effective_listen", None):
            return [(host, int(port)) for host, port in listening]
        return [(self._server.effective_host, int(self._server.effective_port))]

    def stop_listening(self) -> None:
        """Takes no new connections, so that a trainer goes to another server or waits for the next.

        Done in the HTTP thread, which owns the sockets.
        """

        def close_listeners() -> None:
            for listener in [s for s in self._sockets.values() if getattr(s, "accepting", False)]:
                listener.del_channel()
                listener.socket.close()

        trigger = next(s for s in self._sockets.values() if hasattr(s, "pull_trigger"))
        trigger.pull_trigger(close_listeners)

    def drain(self, timeout_s: float) -> bool:
        """Waits until every request is answered and every answer sent; False if it took too long.

        Asks the connections, as a request that is computed is not yet sent.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not any(
                getattr(connection, "requests", None) or getattr(connection, "total_outbufs_len", 0)
                for connection in list(self._sockets.values())
            ):
                return True
            time.sleep(_DRAIN_POLL_S)
        return False


def _raise_descriptor_limit() -> int:
    """Allows as many open connections as the system does; the usual default is only 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
