"""A server that fails as the test wants, in front of a real one."""

from __future__ import annotations

import json
import math
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Flaky:
    """A proxy of a real server. It refuses requests that contain certain labels."""

    def __init__(self, server: Any) -> None:
        self.refused: dict[str, int] = {}
        """Status by label; 0 closes the connection."""
        self.num_refusals: float = math.inf
        """How many requests to refuse. The next ones are answered."""
        self.num_rollouts: list[int] = []
        """One number for each request."""
        self.max_at_once = 0
        """Requests at the same time, at most."""
        self.open = threading.Event()
        """Requests wait until it is set."""
        self.open.set()
        self._at_once = 0
        self._lock = threading.Lock()
        flaky = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                labels = json.loads(data)["labels"]
                flaky.num_rollouts.append(len(labels))
                status, body = 200, b""
                for label in labels:
                    status = flaky.refused.get(label, status)
                if status != 200:
                    flaky.num_refusals -= 1
                    if flaky.num_refusals < 0:
                        status = 200
                # Counted until just before the answer, after which its client may ask again.
                with flaky.counted():
                    flaky.open.wait(60)
                    if status == 200:
                        with urllib.request.urlopen(server.url + self.path, data) as answer:
                            body = answer.read()
                if status == 0:
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/get_reward"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.max_at_once = max(self.max_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1


@pytest.fixture
def flaky(server: Any) -> Iterator[Flaky]:
    front = Flaky(server)
    yield front
    front.open.set()
    front.http.shutdown()
    front.http.server_close()
