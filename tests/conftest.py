"""Fixtures that several test files use."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
_START_S = 60.0


class ServerProcess:
    """A `python -m reward_server` on a free port, logging to a file: a full pipe would hang it."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "reward_server", "--port", "0", *arguments]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stderr=stderr, env={**os.environ, "HF_HUB_OFFLINE": "1"}
            )
        self.url = self._wait(self._listening_on)

    def wait_until_ready(self) -> None:
        self._wait(lambda: self.request("/readyz")[0] == 200)

    def request(self, path: str, body: Any = None, method: str | None = None) -> tuple[int, Any]:
        """Status and JSON (else text) of one request; `body` is sent as JSON, bytes as they are."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(90)
        finally:
            self.process.kill()

    def _listening_on(self) -> str | None:
        found = re.search(r"listening on (http://\S+)/get_reward", self.log.read_text())
        return found and found[1]

    def _wait(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if value := condition():
                return value
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers of a test's own: `start_server("--sar-weight", "0.5")`. Not yet ready."""
    started: list[ServerProcess] = []

    def start(*arguments: str) -> ServerProcess:
        server = ServerProcess(tmp_path_factory.mktemp("server") / "log", *arguments)
        started.append(server)
        return server

    yield start
    for server in started:
        server.process.kill()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., ServerProcess]) -> Iterator[ServerProcess]:
    """A server on the bundled model that the whole session shares."""
    shared = start_server()
    shared.wait_until_ready()
    yield shared
    assert shared.stop() == 0, shared.log.read_text()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Samples of the real data sets, which lie beside the repository and not in it."""
    if not DATA.is_dir():
        pytest.skip(f"no {DATA}: samples of the real data sets")
    return DATA


@pytest.fixture(scope="session")
def bundled_model_path() -> Path:
    """Folder of the bundled demo model."""
    from sar.models import BUNDLED_MODEL

    return BUNDLED_MODEL


@pytest.fixture(scope="session")
def bundled_tokenizer(bundled_model_path: Path) -> Any:
    """The bundled model's tokenizer: byte-level, loses nothing. Not safe to share with threads."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model_path)
