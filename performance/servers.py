"""Servers to measure, the real one and one with a stand-in scorer, and requests for them.

The rollouts are the bundled model's problems. All responses are right.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from performance.load import LoadResult
from performance.workload import GROUP_SIZE
from reward_server.launch import ServerProcess
from sar.models import BUNDLED_MODEL
from sar.models.problems import ArithmeticProblem, generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt

TIMEOUT_S = 120.0
# Each starts a concise response and a padded one.
_STARTS = ("", "I see. ", "So, ", "Well, ", "Fine. ")


def generate_requests(seed: int, group_size: int = GROUP_SIZE) -> Iterator[dict[str, Any]]:
    """Requests with one right response each, `group_size` to a prompt, as OpenRLHF writes them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    eos = tokenizer.eos_token
    for problem in generate(seed, held_out=True):
        prompt = render_prompt(tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        for response in _write_responses(problem, group_size):
            yield {
                "query": [prompt + response + eos],
                "prompts": [prompt],
                "labels": [str(problem.answer)],
            }


def _write_responses(problem: ArithmeticProblem, number: int) -> list[str]:
    texts = [start + text for start in _STARTS for text in (problem.concise, problem.padded)]
    if number > len(texts):
        raise ValueError(f"{number} responses to a prompt; at most {len(texts)}")
    return texts[:number]


def time_request(url: str, payload: dict[str, Any]) -> float:
    """Seconds from opening the connection to the end of the answer."""
    host, _, path = url.removeprefix("http://").partition("/")
    body = json.dumps(payload)
    start = time.perf_counter()
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
    connection.request("POST", f"/{path}", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    elapsed_s = time.perf_counter() - start
    connection.close()
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(f"the server answered {response.status}: {answer[:300]!r}")
    return elapsed_s


@contextmanager
def start_stand_in_server(*arguments: str) -> Iterator[str]:
    """Runs `performance.stand_in_server` with these flags; yields its URL for rewards."""
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
        process.wait(TIMEOUT_S)


@contextmanager
def start_server(*arguments: str) -> Iterator[str]:
    """Runs the real server on the bundled model; yields its URL for rewards when it is ready."""
    with (
        TemporaryDirectory() as folder,
        ServerProcess(*arguments, log=Path(folder) / "server.log") as server,
    ):
        server.wait_until_ready()
        yield f"{server.url}/get_reward"


def check_scores(result: LoadResult, num_requests: int) -> None:
    """
    Raises:
        RuntimeError: a response was not found right.
    """
    scores = [answer["scores"] for answer in result.answers]
    if scores != [[1.0]] * num_requests:
        raise RuntimeError("the server gave wrong scores")
