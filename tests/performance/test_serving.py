"""The load that the serving benchmark sends, and that its figures come out."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest

from performance import serving
from performance.load import send_at_once


class Answering(socketserver.StreamRequestHandler):
    """Answers as told, once it has the whole request."""

    status = b"200 OK"

    def handle(self) -> None:
        length = 0
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = self.rfile.read(length)
        self.wfile.write(b"HTTP/1.1 " + self.status + b"\r\nConnection: close\r\n\r\n" + body)


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 256


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    servers = []

    def start(status: bytes) -> str:
        handler = type("Handler", (Answering,), {"status": status})
        server = Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return "http://{}:{}/get_reward".format(*server.server_address)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_every_request_gets_its_own_answer(serve: Callable[[bytes], str]) -> None:
    payloads = [{"index": index, "text": "東" * 50_000 * (index % 2)} for index in range(64)]
    result = send_at_once(serve(b"200 OK"), payloads, 30)
    assert result.answers == payloads
    assert result.elapsed_s > 0


def test_an_answer_that_is_none_is_an_error(serve: Callable[[bytes], str]) -> None:
    with pytest.raises(RuntimeError, match=r"not an answer.*503"):
        send_at_once(serve(b"503 Service Unavailable"), [{}], 30)


@pytest.mark.slow
def test_the_figures_come_out() -> None:
    bare, graded, latency = serving.measure(quick=True)
    assert "64 one-rollout requests" in bare.name
    assert "real graders" in graded.name
    assert all(rate > 0 for m in (bare, graded) for rate in m.samples)
    assert latency.unit == "ms"
    assert latency.details["request, median ms"] > 0
