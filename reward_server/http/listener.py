"""The HTTP server. It runs each connection in a gevent greenlet of one thread, so that a request
that waits for its reward costs a few kilobytes instead of a thread.

It also limits what slow, silent and flooding clients can hold, which gevent's server does not do.
For that `_Handler` and `_Body` override names that gevent does not document: see `_Handler`.
"""

from __future__ import annotations

import io
import json
import logging
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

from reward_server.http import framing
from reward_server.http.connections import Connections
from reward_server.http.sockets import (
    BACKLOG,
    Incoming,
    create_hang_up_check,
    open_sockets,
    raise_descriptor_limit,
)
from reward_server.pipeline.waiting import CLIENT_IS_GONE, Waiting

# Time for a request's head to arrive, from the connection's start or its previous answer, and then
# for the body. Ends clients that hold a connection by sending a byte now and then.
_READ_TIMEOUT_S = 60.0
# How long to accept nothing while descriptors are short.
_ACCEPT_PAUSE_S = 0.02
# Time for the client to take each part of the answer.
_WRITE_TIMEOUT_S = 60.0
# How long to read on after a refusal: a client that is still sending reads the answer later.
_LINGER_S = 2.0
# Time for requests that are still arriving when the server stops.
_LAST_READ_S = 5.0
_DRAIN_POLL_S = 0.05
# Polls in a row without an open request. A sent request may not have been read at the first one.
_NUM_DRAIN_POLLS = 3

_log = logging.getLogger(__name__)


def _wait_for_result(future: Future[Any], timeout_s: float) -> Any:
    if not future.done():
        loop = gevent.get_hub().loop
        done = Event()
        future.add_done_callback(lambda _: loop.run_callback_threadsafe(done.set))
        done.wait(timeout_s)
    return future.result(timeout=0)


IN_GREENLETS = Waiting(_wait_for_result, lambda: gevent.sleep(0))
"""How requests wait under this server: only their greenlet pauses, not the thread."""


class Listener:
    """Answers HTTP requests in its own thread as soon as it is created."""

    def __init__(self, app: Callable[..., Any], *, host: str, port: int) -> None:
        """
        Args:
            app: a WSGI application. It must wait with `IN_GREENLETS` only, as a blocking call
                would stop all requests.
            host: listens on every address of this host name.
            port: 0 chooses a free port.
        Raises:
            OSError: an address cannot be listened on.
        """
        num_descriptors = raise_descriptor_limit()
        self._sockets = open_sockets(host, port)
        self.addresses: list[tuple[str, int]] = [s.getsockname()[:2] for s in self._sockets]
        """Host and port of each listening socket."""
        self._state = _State(Connections(num_descriptors))
        self._app = app
        self._started = threading.Event()
        threading.Thread(target=self._run, name="http", daemon=True).start()
        self._started.wait()

    def stop_listening(self) -> None:
        """Stops accepting connections, so that trainers connect to another or to the next server.

        Connections that the operating system has already accepted are still served. They have
        `_LAST_READ_S` to send the rest of a request.
        """

        def stop() -> None:
            gevent.sleep(_DRAIN_POLL_S)  # time to accept the connections in the backlog
            for server in self._servers:
                server.close()
            gevent.sleep(_LAST_READ_S)
            self._state.connections.end_receiving()

        self._state.is_stopping = True
        self._loop.run_callback_threadsafe(gevent.spawn, stop)

    def drain(self, timeout_s: float) -> bool:
        """Waits until every answer is sent. False if that takes longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        num_quiet = 0
        while num_quiet < _NUM_DRAIN_POLLS:
            if time.monotonic() > deadline:
                return False
            time.sleep(_DRAIN_POLL_S)
            num_quiet = 0 if self._state.num_requests else num_quiet + 1
        return True

    def _run(self) -> None:
        hub = gevent.get_hub()
        hub.print_exception = _log_exception  # its own writes to standard error, past the log
        self._loop = hub.loop
        self._servers = [_create_server(s, self._app, self._state) for s in self._sockets]
        for server in self._servers:
            server.start()
        self._started.set()
        while True:  # gevent serves requests while this thread sleeps
            gevent.sleep(3600)


def _log_exception(_context: Any, *exc_info: Any) -> None:
    """Logs an exception that ended a greenlet."""
    _log.error("a connection ended with an error of the server", exc_info=exc_info)


class _State:
    """What all connections of a listener share."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.num_requests = 0
        """Requests whose first line has arrived and whose answer is not yet sent."""
        self.is_stopping = False


class _Server(WSGIServer):
    """Accepts connections while there are descriptors for them.

    gevent's own server logs a traceback for each accept that fails, and lets nobody in until a
    descriptor happens to be free.
    """

    state: _State

    def do_read(self) -> Any:
        connections = self.state.connections
        try:
            accepted = super().do_read()
        except OSError as error:
            if self.is_fatal_error(error):
                raise
            connections.on_accept_error(error)
            return None
        if accepted and not connections.admit(accepted[0]):
            accepted[0].close()
            return None
        return accepted

    def full(self) -> bool:
        """gevent asks this before each accept, and stops accepting if it is True."""
        if self.state.connections.must_pause():
            gevent.spawn_later(_ACCEPT_PAUSE_S, self._accept_again)
            return True
        if self.state.connections.must_yield():
            gevent.spawn(self._accept_again)  # runs after the connections accepted before it
            return True
        return False

    def _accept_again(self) -> None:
        if self.started:
            self.start_accepting()


def _create_server(listening: socket.socket, app: Callable[..., Any], state: _State) -> _Server:
    host, port = listening.getsockname()[:2]
    server = _Server(
        listening,
        app,
        log=None,
        error_log=_log,
        # Without these, gevent looks up the host's name in DNS.
        environ={"SERVER_NAME": host, "SERVER_PORT": str(port)},
        handler_class=_Handler,
    )
    server.max_accept = BACKLOG
    server.state = state
    return server


class _Handler(WSGIHandler):
    """Handles the requests of one connection, one after the other.

    Overrides gevent's private methods `_sendall`, `_send_error_response_if_possible` and
    `_handle_client_error`. `_Body` replaces `pywsgi.Input` and overrides its private `_discard`.
    Checked with gevent 26.9.0; pyproject.toml excludes 27. Run tests/chaos before allowing it.
    """

    _is_counted = False
    _is_reading_head = False
    _is_computing = False
    wsgi_input: Any

    def __init__(self, connection: Any, address: Any, server: _Server) -> None:
        incoming = io.BufferedReader(Incoming(connection))
        super().__init__(connection, address, server, incoming)

    def handle(self) -> None:
        connection = self.socket
        try:
            super().handle()
        finally:
            self.server.state.connections.forget(self, connection)

    @property
    def waits_for_client(self) -> bool:
        """Whether the next step is the client's: to send the request or to take the answer."""
        return not (self._is_computing and self.wsgi_input.is_read)

    @property
    def is_receiving(self) -> bool:
        """Whether the request has not arrived in full."""
        return self._is_reading_head or (self._is_computing and not self.wsgi_input.is_read)

    def hang_up(self) -> None:
        """Ends the connection. Whoever reads or writes it gets an error or its end."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _wait_for_client(self) -> None:
        self._is_computing = False
        self.server.state.connections.wait(self)

    def read_requestline(self) -> str:
        line: str = super().read_requestline()
        if line:
            self.server.state.num_requests += 1
            self._is_counted = True
        return line

    def handle_one_request(self) -> Any:
        self._wait_for_client()
        self._is_reading_head = True
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
        if isinstance(outcome, tuple):  # gevent refused the head: not HTTP, or too long
            self._refuse(int(outcome[0]))
            _linger(self.socket)
            return None
        gevent.sleep(0)  # others get a turn between requests that came all at once
        return None if self.server.state.is_stopping else outcome

    def read_request(self, raw_requestline: str) -> bool:
        framing.check_request_line(raw_requestline)
        return bool(super().read_request(raw_requestline))

    def MessageClass(self, source: Any, _: int) -> Any:
        head = framing.read_head(source, self.request_version)
        return super().MessageClass(io.BytesIO(head), 0)

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        if self.wsgi_input.chunked_input:
            # gevent's own reader accepts control characters in extensions and trailers.
            self.wsgi_input = framing.ChunkedInput(self.rfile, self.wsgi_input.socket)
        environ[CLIENT_IS_GONE] = create_hang_up_check(self.socket.fileno())
        return environ

    def run_application(self) -> None:
        self._reading.close()
        self.wsgi_input = _Body(self.wsgi_input, self.content_length, self.socket)
        self.environ["wsgi.input"] = self.wsgi_input
        self._is_reading_head = False
        self._is_computing = True
        if self.server.state.connections.is_limited(self.socket):
            self.close_connection = True
            if self.command not in ("GET", "HEAD"):
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
                return
        try:
            super().run_application()
        except gevent.Timeout:
            self._send_error_response_if_possible(HTTPStatus.REQUEST_TIMEOUT)
        except OSError:
            self.close_connection = True  # the client closed the connection
        if not self.wsgi_input.is_read:
            self.close_connection = True

    def _sendall(self, data: bytes) -> None:
        self._wait_for_client()
        with gevent.Timeout(_WRITE_TIMEOUT_S, TimeoutError("the client does not read")):
            super()._sendall(data)

    def _send_error_response_if_possible(self, error_code: int) -> None:
        self.close_connection = True
        if not self.response_length:
            self._refuse(error_code)

    def _refuse(self, status: int) -> None:
        connections = self.server.state.connections
        if not (connections.is_closing(self) or connections.is_limited(self.socket)):
            # These have a line of their own, once a minute.
            client = self.client_address[0]
            _log.warning("%d to %s: the listener refused the request", status, client)
        with suppress(OSError):
            self.code = status
            self._sendall(_format_refusal(status))

    def _handle_client_error(self, error: Exception) -> tuple[str, bytes]:
        # gevent's own method logs what the client sent, which may include an API key.
        return "400", b""


class _Body:
    """A request's body: must arrive within `_READ_TIMEOUT_S`, and may be left unread."""

    def __init__(self, source: Any, num_bytes: int | None, connection: Any) -> None:
        """
        Args:
            source: gevent's `Input`.
            num_bytes: the Content-Length; None if the body is chunked or there is none.
        """
        self._source = source
        self._num_unread = num_bytes
        self._connection = connection
        self._seconds_left = _READ_TIMEOUT_S
        self.is_read = not num_bytes and not source.chunked_input

    def read(self, size: int = -1) -> bytes:
        """Reads like a file. Raises `gevent.Timeout` after `_READ_TIMEOUT_S` in total, and
        `OSError` if the client has closed the connection."""
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
        """gevent calls this after the answer. Closing a connection with unread data would make the
        client lose the answer."""
        if not self.is_read:
            _linger(self._connection)


def _linger(connection: Any) -> None:
    """Reads and discards what the client still sends, for `_LINGER_S` at most."""
    with suppress(OSError), gevent.Timeout(_LINGER_S, exception=False):
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            gevent.sleep(0)


def _format_refusal(status: int) -> bytes:
    """A complete HTTP answer to a request that does not reach the application."""
    phrase = HTTPStatus(status).phrase
    error = {"type": "http", "message": phrase, "field": None}
    body = json.dumps({"error": error}).encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
