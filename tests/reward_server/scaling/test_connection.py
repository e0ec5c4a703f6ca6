"""The connection to a process that does not do what the driver does."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from reward_server.scaling import connection as connection_module
from reward_server.scaling.connection import DriverProcess

WAIT_S = 60.0


@pytest.fixture
def deaf_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DriverProcess:
    """A process that keeps its end of the connection open, and never reads."""
    script = tmp_path / "deaf"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(connection_module, "_END_S", 0.1)
    return DriverProcess()


def test_a_process_that_does_not_read_holds_up_nobody(deaf_process: DriverProcess) -> None:
    def use() -> None:
        for _ in range(3):
            deaf_process.send(b"x" * 10_000_000)
        deaf_process.end()

    using = threading.Thread(target=use, daemon=True)
    using.start()
    using.join(WAIT_S)
    assert not using.is_alive()
    with pytest.raises(EOFError):
        deaf_process.receive()


def test_a_process_that_does_not_answer_is_given_up(
    deaf_process: DriverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_QUIET_S", 0.1)
    with pytest.raises(EOFError):
        deaf_process.receive()
    deaf_process.end()


def test_what_cannot_be_sent_is_the_sender_s_error(deaf_process: DriverProcess) -> None:
    try:
        with pytest.raises(TypeError, match="pickle"):
            deaf_process.send(threading.Lock())
        deaf_process.send(1)
    finally:
        deaf_process.stop()
        deaf_process.end()
