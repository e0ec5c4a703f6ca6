"""How a script's training process is run to its end, and what is said if it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from recipes.launch.training import explain_end

ROOT = Path(__file__).parents[2]
# Ignores nothing itself: what it inherits from the launcher would show.
CHILD = "import signal, sys, time; print('up', flush=True); {}"


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """Starts servers whose every answer has one status and body. Returns their URLs."""
    started = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/readyz"
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"http://any:k%2Cey@127.0.0.1:{server.server_port}/get_reward"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def test_a_server_that_is_gone_is_named(answering: Callable[[int, bytes], str]) -> None:
    ready = answering(200, b"{}")
    loading = answering(503, json.dumps({"status": "loading"}).encode())
    gone = "http://any:k%2Cey@127.0.0.1:1/get_reward"
    said = explain_end(1, ",".join((ready, loading, gone)))
    assert said.startswith("the run ended with exit code 1. http://127.0.0.1:")
    assert "/get_reward is not ready (loading); http://127.0.0.1:1/get_reward cannot be" in said
    assert "Connection refused" in said
    assert "'Could not infer dtype of NoneType'" in said
    assert ready.rpartition("@")[2] not in said
    assert "ey@" not in said
    assert "\n" not in said


def test_servers_that_are_ready_are_not_blamed(answering: Callable[[int, bytes], str]) -> None:
    said = explain_end(137, answering(200, b"{}"))
    assert said.startswith("the run ended with exit code 137; the reward servers are ready.")
    assert "cannot be reached" not in said


@pytest.mark.parametrize("body", [b"", b"[]", b'{"other": 1}', b"<html>"])
def test_another_server_in_front(body: bytes, answering: Callable[[int, bytes], str]) -> None:
    assert "/get_reward is not ready (HTTP 502)" in explain_end(1, answering(502, body))


@pytest.mark.parametrize("code", [0, 130, 143])
def test_a_run_that_the_user_ended_needs_no_explanation(code: int) -> None:
    assert explain_end(code, "http://127.0.0.1:1/get_reward") == ""


def launch(child: str) -> subprocess.Popen[str]:
    """Runs a child of `run_training` in a process group of its own, and waits until it is up."""
    code = (
        "import signal, sys; from recipes.launch.training import run_training; "
        "signal.signal(signal.SIGINT, signal.SIG_DFL); "
        f"sys.exit(run_training([sys.executable, '-c', {CHILD.format(child)!r}]))"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "up\n"
    return launcher


@pytest.mark.parametrize(("child", "code"), [("sys.exit(0)", 0), ("sys.exit(7)", 7)])
def test_the_exit_code_is_the_trainings(child: str, code: int) -> None:
    assert launch(child).wait(60) == code


def test_a_signal_to_the_launcher_ends_the_training() -> None:
    launcher = launch("time.sleep(600)")
    os.kill(launcher.pid, signal.SIGTERM)
    assert launcher.wait(60) == 128 + signal.SIGTERM
    assert launcher.stdout is not None
    assert launcher.stdout.read() == ""  # closed: nobody holds it


def test_after_ctrl_c_the_launcher_waits_for_the_training() -> None:
    """A terminal sends SIGINT to the whole group. The training may save before it ends."""
    launcher = launch(
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(1), print('saved'), sys.exit(5))); "
        "time.sleep(0.2); print('ready', flush=True); time.sleep(600)"
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "ready\n"
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(60) == 5
    assert launcher.stdout.read() == "saved\n"
