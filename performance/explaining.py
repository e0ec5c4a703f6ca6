"""What `/explain` costs rewards: a client explains all the time, beside requests for rewards.

Rounds with and without that client take turns on one server, so a machine that slows down affects
both. One request after the other shows what an idle server's rewards wait; many at once, what its
throughput loses.
"""

from __future__ import annotations

import json
import statistics
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from performance.load import send_at_once
from performance.report import Measurement
from performance.servers import generate_requests, time_request
from reward_server.launch import ServerProcess

NUM_AT_ONCE, NUM_ALONE, NUM_ROUNDS = 256, 24, 12
_TIMEOUT_S = 300.0
_NUM_EXPLAINED = 8  # rollouts in a request of /explain


def measure(quick: bool) -> list[Measurement]:
    """Ratios of times with the explaining client to those without it, in each round."""
    num_at_once, num_alone, num_rounds = (
        (16, 2, 2) if quick else (NUM_AT_ONCE, NUM_ALONE, NUM_ROUNDS)
    )
    rates, waits, num_explained = [], [], []
    with TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with ServerProcess(log=log, timeout_s=_TIMEOUT_S) as server:
            server.wait_until_ready()
            rollouts = generate_requests(seed=18)
            explained = _join(list(islice(rollouts, _NUM_EXPLAINED)))
            _time_round(server.url, rollouts, num_at_once, num_alone)
            for number in range(num_rounds):
                times = {}
                for is_explaining in (True, False) if number % 2 else (False, True):
                    with ExitStack() as stack:
                        if is_explaining:
                            answers = stack.enter_context(_explaining(server.url, explained))
                        times[is_explaining] = _time_round(
                            server.url, rollouts, num_at_once, num_alone
                        )
                num_explained.append(len(answers) * _NUM_EXPLAINED)
                rates.append(times[False][0] / times[True][0])
                waits.append(times[True][1] / times[False][1])
    beside = "while a client explains, of without it"
    return [
        Measurement(f"requests/s, {num_at_once} at once, {beside}", rates, "x"),
        Measurement(f"time of a request alone, {beside}", waits, "x"),
        Measurement("rollouts explained in a round", num_explained, ""),
    ]


def _join(requests: list[dict[str, Any]]) -> bytes:
    keys = ("query", "prompts", "labels")
    return json.dumps({key: [one[key][0] for one in requests] for key in keys}).encode()


def _time_round(
    url: str, rollouts: Iterator[dict[str, Any]], num_at_once: int, num_alone: int
) -> tuple[float, float]:
    """Seconds of many requests at once, and the median of seconds of one alone."""
    at_once = send_at_once(f"{url}/get_reward", list(islice(rollouts, num_at_once)), _TIMEOUT_S)
    alone = [time_request(f"{url}/get_reward", one) for one in islice(rollouts, num_alone)]
    return at_once.elapsed_s, statistics.median(alone)


@contextmanager
def _explaining(url: str, body: bytes) -> Iterator[list[int]]:
    """Explains the same rollouts again and again in a thread. Gives the statuses of the answers."""
    is_over = threading.Event()
    answers: list[int] = []

    def explain() -> None:
        request = urllib.request.Request(f"{url}/explain", body)
        while not is_over.is_set():
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                answer.read()
                answers.append(answer.status)

    client = threading.Thread(target=explain, daemon=True)
    client.start()
    yield answers
    is_over.set()
    client.join(_TIMEOUT_S)
