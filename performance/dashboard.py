"""What the dashboard costs: requests per second with it, over those of a server without it.

Two real servers on the bundled model get the same requests in turn. Times of one machine differ by
more than 2 % from minute to minute, so each ratio is of two rounds right after each other, and the
processor time of the servers' processes is compared too.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from performance.load import send_at_once
from performance.report import Measurement
from performance.servers import generate_requests
from reward_server.launch import ServerProcess

NUM_REQUESTS = 128
NUM_ROUNDS = 40
_TIMEOUT_S = 300.0
# What a page asks for, as often as it does.
_QUESTIONS = (
    "status",
    "alarms",
    "series?by=rollouts&buckets=120",
    "points?verdict=all",
    "table?kind=latest",
)
_ASK_EVERY_S = 2.0


def measure(quick: bool) -> list[Measurement]:
    """Measures with nobody looking, and with one open page."""
    num_requests, num_rounds = (32, 2) if quick else (NUM_REQUESTS, NUM_ROUNDS)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        without, with_it = (
            stack.enter_context(
                ServerProcess(*flags, log=Path(folder) / f"{name}.log", timeout_s=_TIMEOUT_S)
            )
            for name, flags in (("without", ["--dashboard-rollouts", "0"]), ("with", []))
        )
        rollouts = generate_requests(seed=17)
        for server in (without, with_it):
            server.wait_until_ready()
            _send(server, list(islice(rollouts, num_requests)))
        measured = []
        for name, is_watched in (("nobody looks", False), ("one page is open", True)):
            with _reading(with_it.url) if is_watched else ExitStack():
                rates, costs = _compare(without, with_it, rollouts, num_requests, num_rounds)
            measured += _to_measurements(name, rates, costs)
    return measured


def _compare(
    without: ServerProcess,
    with_it: ServerProcess,
    rollouts: Iterator[dict[str, Any]],
    num_requests: int,
    num_rounds: int,
) -> tuple[list[float], list[float]]:
    """Ratios of requests per second, and of processor seconds: with the dashboard over without."""
    rates, costs = [], []
    for number in range(num_rounds):
        sent = list(islice(rollouts, num_requests))
        order = [without, with_it] if number % 2 else [with_it, without]
        results = {server: _send(server, sent) for server in order}
        rates.append(results[without][0] / results[with_it][0])
        costs.append(results[with_it][1] / results[without][1])
    return rates, costs


def _send(server: ServerProcess, sent: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Seconds that the requests take, and processor seconds of the server's process. Graders are
    processes of their own, which the dashboard does not touch."""
    import psutil

    process = psutil.Process(server.process.pid)
    before = sum(process.cpu_times()[:2])
    result = send_at_once(f"{server.url}/get_reward", sent, _TIMEOUT_S)
    time.sleep(0.5)  # the dashboard gathers rollouts for a moment
    return result.elapsed_s, sum(process.cpu_times()[:2]) - before


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """Asks for a page's data in a thread, as an open page does."""
    is_over = threading.Event()

    def read() -> None:
        while not is_over.wait(_ASK_EVERY_S):
            for question in _QUESTIONS:
                with urllib.request.urlopen(f"{url}/dashboard/data/{question}") as answer:
                    answer.read()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    yield
    is_over.set()
    reader.join(_TIMEOUT_S)


def _to_measurements(name: str, rates: list[float], costs: list[float]) -> list[Measurement]:
    what = f"with the dashboard, of without it, {name}"
    return [
        Measurement(f"requests/s {what}", rates, "x", at_least=0.98),
        Measurement(f"processor time per request {what}", costs, "x", at_most=1.02),
    ]
