"""Real HTTP servers for the terms that ask a model elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import Sample


@dataclass
class Received:
    """A request that the server got."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """What the server does: an answer, complete or not."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """Sent instead of the body as JSON."""
    promised_bytes: int | None = None
    """The Content-Length, if it is not that of the body."""
    closes: bool = False
    """The connection is closed without an answer."""


class FakeServer:
    """Answers with what `reply` returns for a request, and remembers what it got."""

    def __init__(self) -> None:
        self.reply: Callable[[Received], Reply] = lambda _: Reply({})
        self.received: list[Received] = []
        self.num_now = 0
        self.num_most = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers["Content-Length"]))
        received = Received(handler.path, dict(handler.headers), json.loads(content))
        with self._lock:
            self.received.append(received)
            self.num_now += 1
            self.num_most = max(self.num_most, self.num_now)
        try:
            reply = self.reply(received)
        finally:
            with self._lock:
                self.num_now -= 1
        if reply.closes:
            handler.close_connection = True
            return
        content = json.dumps(reply.body).encode() if reply.raw is None else reply.raw
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        num_bytes = len(content) if reply.promised_bytes is None else reply.promised_bytes
        handler.send_header("Content-Length", str(num_bytes))
        handler.end_headers()
        try:
            handler.wfile.write(content)
        except ConnectionError:  # the client has read enough
            handler.close_connection = True
        if num_bytes != len(content):
            handler.close_connection = True

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def other_server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once, and no proxy of the machine is in the way."""
    monkeypatch.setattr("sar.terms.remote.client._FIRST_PAUSE_S", 0.01)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """Makes rollouts: `make_sample("It is 5.")`."""

    def make(
        response: str = "It is 5.",
        *,
        prompt: str = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n",
        answer: str = "5",
    ) -> Sample:
        verdict = Verdict(Reason.CORRECT)
        likelihood = Likelihood(0.5, 1.0, 7, over_context=False)
        return Sample(prompt, response, Label(answer, "math"), verdict, likelihood)

    return make
