"""Speed of the server apart from the model: requests per second, and the latency it adds.

The rollouts are the bundled model's problems, six to a prompt as OpenRLHF sends them. Each round
sends new ones, because the server caches the tokens of prompts that it has seen.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from collections.abc import Sequence
from itertools import islice
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
from performance.stand_in_server import STEP_ROLLOUTS, STEP_S
from performance.workload import SERVER_ENVIRONMENT, Worker
from sar.models import BUNDLED_MODEL
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.scoring import TokenSequence

NUM_REQUESTS = 1024
NUM_ROUNDS = 5
NUM_LONE_REQUESTS = 40


def measure(quick: bool) -> list[Measurement]:
    """Measures requests per second with a stand-in scorer, and the latency of a lone request."""
    num_requests = 64 if quick else NUM_REQUESTS
    num_rounds = 2 if quick else NUM_ROUNDS
    return [
        *_measure_throughput(num_requests, num_rounds),
        _measure_added_latency(5 if quick else NUM_LONE_REQUESTS),
    ]


def _measure_throughput(num_requests: int, num_rounds: int) -> list[Measurement]:
    rollouts = generate_requests(seed=0)
    rates: dict[bool, list[float]] = {False: [], True: []}
    busy: dict[bool, list[float]] = {False: [], True: []}
    batches: dict[bool, list[float]] = {False: [], True: []}
    with start_stand_in_server() as bare, start_stand_in_server("--graders") as grading:
        for url in (bare, grading):  # the first requests start threads and grader processes
            send_at_once(url, list(islice(rollouts, num_requests)), TIMEOUT_S)
        for round_number in range(num_rounds):
            for with_graders, url in ((False, bare), (True, grading)):
                sent = list(islice(rollouts, num_requests))
                before = _get_status(url)
                result = send_at_once(url, sent, TIMEOUT_S)
                after = _get_status(url)
                check_scores(result, num_requests)
                rates[with_graders].append(num_requests / result.elapsed_s)
                busy[with_graders].append((after["busy_s"] - before["busy_s"]) / result.elapsed_s)
                batches[with_graders].append(after["batches"] - before["batches"])
            print(
                f"serving: round {round_number + 1} of {num_rounds}, "
                f"{rates[False][-1]:.0f} requests/s, {rates[True][-1]:.0f} with graders",
                flush=True,
            )
    return [
        Measurement(
            f"{num_requests} one-rollout requests at once, simulated scorer"
            + (", real graders" if with_graders else " and graders"),
            rates[with_graders],
            "requests/s",
            at_least=400 if with_graders else 1000,
            details={
                "batches": batches[with_graders],
                "share of the time that the stand-in worked": busy[with_graders],
                "stand-in": f"{STEP_S} s per batch, of at most about {STEP_ROLLOUTS} rollouts",
            },
        )
        for with_graders in (False, True)
    ]


def _measure_added_latency(num_requests: int) -> Measurement:
    """Time of a request to an idle server, minus the forward passes of its rollout alone."""
    from transformers import AutoTokenizer

    from sar.tokenization import RolloutTokenizer

    tokenizer = RolloutTokenizer(
        AutoTokenizer.from_pretrained(BUNDLED_MODEL), system_prompt=DEFAULT_SYSTEM_PROMPT
    )
    requests, forwards = [], []
    with (
        start_server() as url,
        Worker(_BareScorer, environment=SERVER_ENVIRONMENT) as scorer,
    ):
        for index, payload in enumerate(islice(generate_requests(seed=1), num_requests + 5)):
            prompt, query = payload["prompts"][0], payload["query"][0]
            sequences = tokenizer.encode(prompt, query.removeprefix(prompt)).sequences
            forward_s = scorer.ask("seconds", sequences)
            request_s = time_request(url, payload)
            if index >= 5:  # the first requests load code
                forwards.append(forward_s * 1e3)
                requests.append(request_s * 1e3)
    added = [request - forward for request, forward in zip(requests, forwards, strict=True)]
    return Measurement(
        "latency that the server adds to a lone request",
        added,
        "ms",
        at_most=10,
        details={
            "request, median ms": statistics.median(requests),
            "bare forward passes, median ms": statistics.median(forwards),
        },
    )


class _BareScorer:
    """The scorer on the bundled model, called directly."""

    def __init__(self) -> None:
        from sar.scoring.transformers_scorer import TransformersScorer

        self._scorer = TransformersScorer.from_pretrained(
            str(BUNDLED_MODEL), device="cpu", max_batch_tokens=16384
        )

    def seconds(self, sequences: Sequence[TokenSequence]) -> float:
        start = time.perf_counter()
        self._scorer.response_logprobs(sequences)
        return time.perf_counter() - start


def _get_status(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.replace("get_reward", "healthz")) as response:
        status: dict[str, Any] = json.load(response)
    return status
