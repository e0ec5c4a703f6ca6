"""The process that talks to Ray, without a server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from reward_server.scaling import connection as connection_module
from reward_server.scaling.connection import DriverProcess
from reward_server.scaling.messages import Connected, Start
from reward_server.scaling.options import ModelOptions, ScalingOptions

WAIT_S = 120.0


@pytest.fixture
def driver(ray_environ: dict[str, str]) -> Iterator[DriverProcess]:
    """It has started Ray."""
    process = DriverProcess()
    model = ModelOptions("transformers", "cpu", "auto", 1000, 0.9, 1, False)
    process.send(Start(ScalingOptions(1, None, model)))
    first = process.receive()
    assert isinstance(first, Connected), first
    yield process
    process.end()


def expect_end(driver: DriverProcess, cause: Callable[[], None], quiet_s: float) -> None:
    """Checks that the process is given up after a cause, and not before."""
    with ThreadPoolExecutor(1) as thread:
        received: Future[Any] = thread.submit(driver.receive)
        time.sleep(quiet_s)
        assert not received.done(), "it answers, and has nothing else to say"
        cause()
        with pytest.raises(EOFError):
            received.result(WAIT_S)


def test_a_process_that_stops_to_answer_is_noticed(
    driver: DriverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_QUIET_S", 1.0)
    expect_end(driver, lambda: os.kill(driver.pid, signal.SIGSTOP), 4.0)


def test_it_ends_with_the_node_that_it_has_started(driver: DriverProcess) -> None:
    """So that the server starts another."""
    started = psutil.Process(driver.pid).children(recursive=True)
    (raylet,) = [one for one in started if one.name() == "raylet"]
    expect_end(driver, raylet.kill, 1.0)
    driver.end()
    _, alive = psutil.wait_procs(started, WAIT_S)
    assert not alive
