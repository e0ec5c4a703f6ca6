"""What a composed reward costs: a request under a reward file, and rollouts that wait for siblings.

Servers take turns, so that a machine that slows down affects both sides of a ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from performance.load import send_at_once
from performance.report import Measurement
from performance.servers import (
    TIMEOUT_S,
    check_scores,
    generate_requests,
    start_server,
    start_stand_in_server,
    time_request,
)

GROUP_SIZE = 8
NUM_ROLLOUTS = 1024
NUM_ROUNDS = 9
REQUEST_ROLLOUTS = 64
NUM_REQUESTS = 120
# The numbers of no file, composed: what is left of the difference is the composing.
_DEFAULT = """
[[terms]]
term = "correctness"
[[terms]]
term = "sar"
weight = 0.2
"""
_GROUPED = f"""
group_size = {GROUP_SIZE}
{_DEFAULT}
[[terms]]
term = "o1_pruner"
weight = 0.2
"""


def measure(quick: bool) -> list[Measurement]:
    """Measures a request's time, and the throughput of groups, against a server without a file."""
    return [
        _measure_request(4 if quick else NUM_REQUESTS),
        _measure_groups(64 if quick else NUM_ROLLOUTS, 2 if quick else NUM_ROUNDS),
    ]


def _measure_request(num_requests: int) -> Measurement:
    rollouts = generate_requests(seed=2)
    ratios = []
    with (
        _write_reward_file(_DEFAULT) as file,
        start_server() as plain,
        start_server("--reward", str(file)) as composed,
    ):
        for index in range(num_requests + 5):
            payload = _merge(list(islice(rollouts, REQUEST_ROLLOUTS)))
            # Each is first half of the time.
            order = (plain, composed) if index % 2 else (composed, plain)
            times_s = {url: time_request(url, payload) for url in order}
            if index >= 5:  # the first requests load code
                ratios.append(times_s[composed] / times_s[plain])
    return Measurement(
        f"request of {REQUEST_ROLLOUTS} rollouts under a reward file, against none",
        ratios,
        "x",
        at_most=1.02,
    )


def _measure_groups(num_rollouts: int, num_rounds: int) -> Measurement:
    rollouts = generate_requests(seed=3, group_size=GROUP_SIZE)
    ratios = []
    with (
        _write_reward_file(_GROUPED) as file,
        start_stand_in_server("--graders") as plain,
        start_stand_in_server("--graders", "--reward", str(file)) as grouped,
    ):
        for round_number in range(num_rounds + 1):
            sent = list(islice(rollouts, num_rollouts))
            order = (plain, grouped) if round_number % 2 else (grouped, plain)
            times_s = {}
            for url in order:
                result = send_at_once(url, sent, TIMEOUT_S)
                check_scores(result, num_rollouts)
                if any(
                    one["extra_logs"].get("cohort_incomplete", [0]) != [0] for one in result.answers
                ):
                    raise RuntimeError("a group was settled without all of its rollouts")
                times_s[url] = result.elapsed_s
            if round_number:  # the first requests start threads and grader processes
                ratios.append(times_s[plain] / times_s[grouped])
            print(f"composing: round {round_number} of {num_rounds}", flush=True)
    return Measurement(
        f"throughput of {num_rollouts} one-rollout requests in groups of {GROUP_SIZE}, against "
        "no groups",
        ratios,
        "x",
        at_least=0.9,
    )


def _merge(requests: list[dict[str, Any]]) -> dict[str, Any]:
    """One request with all rollouts of these."""
    return {name: [one[name][0] for one in requests] for name in requests[0]}


@contextmanager
def _write_reward_file(text: str) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "reward.toml"
        file.write_text(text)
        yield file
