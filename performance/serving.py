"""Speed of the server apart from the model: requests per second, and the latency it adds.

The rollouts are the bundled model's problems, six to a prompt as OpenRLHF sends them. Each round
sends new ones, because the server caches the tokens of prompts that it has seen.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from performance.load import LoadResult, send_at_once
from performance.report import Measurement
from performance.stand_in_server import STEP_ROLLOUTS, STEP_S
from performance.workload import GROUP_SIZE, SERVER_ENVIRONMENT, Worker
from reward_server.launch import ServerProcess
from sar.models import BUNDLED_MODEL
from sar.models.problems import ArithmeticProblem, generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt
from sar.scoring import TokenSequence

NUM_REQUESTS = 1024
NUM_ROUNDS = 5
NUM_LONE_REQUESTS = 40
_TIMEOUT_S = 120.0


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
    with _start_stand_in_server() as bare, _start_stand_in_server("--graders") as grading:
        for url in (bare, grading):  # the first requests start threads and grader processes
            send_at_once(url, list(islice(rollouts, num_requests)), _TIMEOUT_S)
        for round_number in range(num_rounds):
            for with_graders, url in ((False, bare), (True, grading)):
                sent = list(islice(rollouts, num_requests))
                before = _get_status(url)
                result = send_at_once(url, sent, _TIMEOUT_S)
                after = _get_status(url)
                _check_scores(result, num_requests)
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


def _check_scores(result: LoadResult, num_requests: int) -> None:
    scores = [answer["scores"] for answer in result.answers]
    if scores != [[1.0]] * num_requests:
        raise RuntimeError("the server gave wrong scores")


def _measure_added_latency(num_requests: int) -> Measurement:
    """Time of a request to an idle server, minus the forward passes of its rollout alone."""
    from transformers import AutoTokenizer

    from sar.tokenization import RolloutTokenizer

    tokenizer = RolloutTokenizer(
        AutoTokenizer.from_pretrained(BUNDLED_MODEL), system_prompt=DEFAULT_SYSTEM_PROMPT
    )
    requests, forwards = [], []
    with (
        _start_server() as url,
        Worker(_BareScorer, environment=SERVER_ENVIRONMENT) as scorer,
    ):
        for index, payload in enumerate(islice(generate_requests(seed=1), num_requests + 5)):
            prompt, query = payload["prompts"][0], payload["query"][0]
            sequences = tokenizer.encode(prompt, query.removeprefix(prompt)).sequences
            forward_s = scorer.ask("seconds", sequences)
            request_s = _time_request(url, payload)
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


def generate_requests(seed: int) -> Iterator[dict[str, Any]]:
    """Requests with right responses, `GROUP_SIZE` to a prompt, as OpenRLHF writes them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    eos = tokenizer.eos_token
    for problem in generate(seed, held_out=True):
        prompt = render_prompt(tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        for response in _write_responses(problem):
            yield {
                "query": [prompt + response + eos],
                "prompts": [prompt],
                "labels": [str(problem.answer)],
            }


def _write_responses(problem: ArithmeticProblem) -> list[str]:
    lines = ("", "I see. ", "So, ")
    texts = [start + text for start in lines for text in (problem.concise, problem.padded)]
    if len(texts) != GROUP_SIZE:
        raise ValueError(f"{len(texts)} responses, not {GROUP_SIZE}")
    return texts


def _time_request(url: str, payload: dict[str, Any]) -> float:
    """Seconds from opening the connection to the end of the answer."""
    host, _, path = url.removeprefix("http://").partition("/")
    body = json.dumps(payload)
    start = time.perf_counter()
    connection = http.client.HTTPConnection(host, timeout=_TIMEOUT_S)
    connection.request("POST", f"/{path}", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    elapsed_s = time.perf_counter() - start
    connection.close()
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(f"the server answered {response.status}: {answer[:300]!r}")
    return elapsed_s


def _get_status(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.replace("get_reward", "healthz")) as response:
        status: dict[str, Any] = json.load(response)
    return status


@contextmanager
def _start_stand_in_server(*arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "performance.stand_in_server", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if not (url := process.stdout.readline().strip()):
            raise RuntimeError("the stand-in server did not start")
        yield url
    finally:
        process.stdin.close()
        process.wait(_TIMEOUT_S)


@contextmanager
def _start_server() -> Iterator[str]:
    """Runs the real server on the bundled model; yields its URL when it is ready."""
    with TemporaryDirectory() as folder, ServerProcess(log=Path(folder) / "server.log") as server:
        server.wait_until_ready()
        yield f"{server.url}/get_reward"
