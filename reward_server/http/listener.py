"""The HTTP server: gevent's, so that a request that waits for its reward costs a few kilobytes and
no thread. All requests run in one thread, the batcher and the graders in others.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import resource
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import gevent
from gevent.event import Event
from gevent.pywsgi import WSGIHandler, WSGIServer

from reward_server.pipeline.waiting import CLIENT_IS_GONE, Waiting

_MAX_DESCRIPTORS = 65536
_BACKLOG = 4096
# For a request to come in, head and body, and for a kept connection to bring its next one. Ends
# clients that send a byte now and then to hold connections open.
_READ_TIMEOUT_S = 60.0
# For an answer to be taken by its client.
_WRITE_TIMEOUT_S = 60.0
# An ordinary request takes no more.
_READS_AT_ONCE = 8
# A client that is refused while it is still sending gets to read why.
_LINGER_S = 2.0
_DRAIN_POLL_S = 0.05
# Quiet polls in a row: a request may have been sent and not be read yet.
_DRAIN_POLLS = 3

_log = logging.getLogger(__name__)


def _result(future: Future[Any], timeout_s: float) -> Any:
    if not future.done():
        loop = gevent.get_hub().loop
        done = Event()
        future.add_done_callback(lambda _: loop.run_callback_threadsafe(done.set))
        done.wait(timeout_s)
    return future.result(timeout=0)


IN_GREENLETS = Waiting(_result, lambda: gevent.sleep(0))
"""For requests that the listener runs."""


class Listener:
    """Answers requests in a thread of its own, from the moment it is made."""

    def __init__(self, app: Callable[..., Any], *, host: str, port: int) -> None:
        """
        Args:
            app: a WSGI application; it waits by `IN_GREENLETS` only.
            port: 0 takes a free one.
        Raises:
            OSError: it cannot listen there.
        """
        _raise_descriptor_limit()
        self._sockets = _listen(host, port)
        self.addresses: list[tuple[str, int]] = [s.getsockname()[:2] for s in self._sockets]
        """Host and port of each socket it listens on."""
        self._state = _State()
        self._app = app
        self._started = threading.Event()
        threading.Thread(target=self._run, name="http", daemon=True).start()
        self._started.wait()

    def stop_listening(self) -> None:
        """Takes no new connections, so that a trainer goes to another server or waits for the next.
        Those that the system has taken already are served."""

        def stop() -> None:
            gevent.sleep(_DRAIN_POLL_S)  # what waits to be accepted is
            for server in self._servers:
                server.close()

        self._state.is_stopping = True
        self._loop.run_callback_threadsafe(gevent.spawn, stop)

    def drain(self, timeout_s: float) -> bool:
        """Waits until every answer is sent; False if it took too long."""
        deadline = time.monotonic() + timeout_s
        num_quiet = 0
        while num_quiet < _DRAIN_POLLS:
            if time.monotonic() > deadline:
                return False
            time.sleep(_DRAIN_POLL_S)
            num_quiet = 0 if self._state.num_requests else num_quiet + 1
        return True

    def _run(self) -> None:
        self._loop = gevent.get_hub().loop
        self._servers = [_server(s, self._app, self._state) for s in self._sockets]
        for server in self._servers:
            server.start()
        self._started.set()
        while True:  # the hub runs while this waits
            gevent.sleep(3600)


class _State:
    """What the connections of a listener share."""

    num_requests = 0
    """Requests of which a line has come, and the answer is not sent."""
    is_stopping = False


def _server(listening: socket.socket, app: Callable[..., Any], state: _State) -> WSGIServer:
    host, port = listening.getsockname()[:2]
    server = WSGIServer(
        listening,
        app,
        log=None,
        error_log=_log,
        # gevent would ask the name service for the host's name.
        environ={"SERVER_NAME": host, "SERVER_PORT": str(port)},
        handler_class=_Handler,
    )
    server.max_accept = _BACKLOG
    server.state = state
    return server


class _Handler(WSGIHandler):
    """One connection."""

    _is_counted = False
    wsgi_input: Any

    def __init__(self, connection: Any, address: Any, server: WSGIServer) -> None:
        incoming = io.BufferedReader(_Incoming(connection))
        super().__init__(connection, address, server, incoming)

    def read_requestline(self) -> str:
        line: str = super().read_requestline()
        if line:
            self.server.state.num_requests += 1
            self._is_counted = True
        return line

    def handle_one_request(self) -> Any:
        self._reading = gevent.Timeout.start_new(_READ_TIMEOUT_S)
        try:
            outcome = super().handle_one_request()
        except gevent.Timeout:
            return None
        finally:
            self._reading.close()
            if self._is_counted:
                self.server.state.num_requests -= 1
                self._is_counted = False
        if isinstance(outcome, tuple):  # the head was not HTTP, or too long
            self._refuse(int(outcome[0]))
            _linger(self.socket)
            return None
        return None if self.server.state.is_stopping else outcome

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ[CLIENT_IS_GONE] = _hang_up_check(self.socket.fileno())
        return environ

    def run_application(self) -> None:
        self._reading.close()
        self.wsgi_input = _Body(self.wsgi_input, self.content_length, self.socket)
        self.environ["wsgi.input"] = self.wsgi_input
        try:
            super().run_application()
        except gevent.Timeout:
            self._send_error_response_if_possible(HTTPStatus.REQUEST_TIMEOUT)
        except OSError:
            self.close_connection = True  # the client left in the middle
        if not self.wsgi_input.is_read:
            self.close_connection = True

    def _sendall(self, data: bytes) -> None:
        with gevent.Timeout(_WRITE_TIMEOUT_S, TimeoutError("the client does not read")):
            super()._sendall(data)

    def _send_error_response_if_possible(self, error_code: int) -> None:
        self.close_connection = True
        if not self.response_length:
            self._refuse(error_code)

    def _refuse(self, status: int) -> None:
        _log.warning("%d to %s: refused before it was a request", status, self.client_address[0])
        with suppress(OSError):
            self.code = status
            self._sendall(_refusal(status))

    def _handle_client_error(self, error: Exception) -> tuple[str, bytes]:
        # gevent would log what was sent, and there may be a key in it.
        return "400", b""


class _Incoming(io.RawIOBase):
    """What a connection brings. gevent reads on for as long as there is more, and a client that
    sends without end would have the server to itself."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._num_reads = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._num_reads += 1
        if self._num_reads > _READS_AT_ONCE:
            gevent.sleep(0)
        num_bytes: int = self._connection.recv_into(buffer)
        return num_bytes


class _Body:
    """A request's body, which has to come in within `_READ_TIMEOUT_S`, and need not be read."""

    def __init__(self, source: Any, num_bytes: int | None, connection: Any) -> None:
        """
        Args:
            source: gevent's `Input`.
            num_bytes: as the request says; None where it comes in chunks, or there is no body.
        """
        self._source = source
        self._num_unread = num_bytes
        self._connection = connection
        self._seconds_left = _READ_TIMEOUT_S
        self.is_read = not num_bytes and not source.chunked_input

    def read(self, size: int = -1) -> bytes:
        """Raises `gevent.Timeout` when the time is over, `OSError` when the client has gone."""
        started = time.monotonic()
        with gevent.Timeout(max(0.0, self._seconds_left)):
            data: bytes = self._source.read(size)
        self._seconds_left -= time.monotonic() - started
        if self._num_unread is None:
            self.is_read |= size < 0 or not data
        else:
            self._num_unread -= len(data)
            self.is_read = self._num_unread <= 0
        return data

    def _discard(self) -> None:
        """For gevent, after the answer: closing with data unread would take it from the client."""
        if self.is_read:
            return
        _linger(self._connection)


def _linger(connection: Any) -> None:
    """Reads on for a while, unless the client has gone."""
    with suppress(OSError), gevent.Timeout(_LINGER_S, exception=False):
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            gevent.sleep(0)


def _refusal(status: int) -> bytes:
    """A whole answer, for what never gets to the application."""
    phrase = HTTPStatus(status).phrase
    error = {"type": "http", "message": phrase, "field": None}
    body = json.dumps({"error": error}).encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _hang_up_check(descriptor: int) -> Callable[[], bool]:
    poll = select.poll()
    # Not everywhere: without it, only a connection that was reset is seen.
    poll.register(descriptor, getattr(select, "POLLRDHUP", select.POLLHUP))
    return lambda: bool(poll.poll(0))


def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address that the host has here, all with the same port."""
    sockets: list[socket.socket] = []
    try:
        for family, kind, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            taken = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bound(family, kind, (address[0], taken, *address[2:])))
            except OSError as error:
                # localhost has an IPv6 address even where there is no IPv6.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
        if not sockets:
            raise missing
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    return sockets


def _bound(family: int, kind: int, address: tuple[Any, ...]) -> socket.socket:
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _raise_descriptor_limit() -> None:
    """Allows as many open connections as the system does; the usual default is only 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
