"""GRPO with a server that follows the checkpoints. The server is killed in the third step; the same
command then continues."""

from __future__ import annotations

import json
import re
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NUM_ROLLOUTS, NUM_PROBLEMS = 16, 12  # of a step, and of an evaluation
NUM_PREFLIGHT = 2
BEFORE_STEP_3 = NUM_PREFLIGHT + 2 * (NUM_ROLLOUTS + NUM_PROBLEMS)


@dataclass
class Followed:
    """What two runs of one command left."""

    output: Path
    killed_code: int
    killed_log: str
    killed_steps: set[int]
    """Steps in TensorBoard when the first run had ended."""
    end_code: int
    end_log: str
    server_logs: list[str]
    scalars: dict[str, dict[int, float]]
    first: list[dict[str, Any]]
    """Decisions of the server that was killed, in order."""
    second: list[dict[str, Any]]


class KillingFront:
    """Passes requests on to a server. Kills it, and closes, at the first reward of step 3, which it
    keeps back like every answer after it: looking from outside may see all of the step's rewards at
    once."""

    def __init__(self, server: Any, log: Path) -> None:
        self._server = server
        self._log = log
        self._num_rewards = 0
        self._is_killed = False
        self._lock = threading.Lock()
        front = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                try:
                    with urllib.request.urlopen(server.url + self.path, body or None) as answer:
                        status, text = answer.status, answer.read()
                except urllib.error.HTTPError as error:
                    status, text = error.code, error.read()
                except OSError:  # it was killed meanwhile
                    return
                if front._count_rewards(len(json.loads(body)["query"]) if body else 0):
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")  # OpenRLHF requires it
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def _count_rewards(self, num_rewards: int) -> bool:
        """Returns whether to pass the answer on."""
        with self._lock:
            self._num_rewards += num_rewards
            if self._num_rewards > BEFORE_STEP_3 and not self._is_killed:
                while len(read_lines(self._log)) <= BEFORE_STEP_3:  # written in the background
                    time.sleep(0.05)
                self._is_killed = True
                self._server.process.kill()
                self._http.shutdown()
                self._http.server_close()
            return not self._is_killed


def read_lines(folder: Path) -> list[str]:
    return [line for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]


def read_decisions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(folder)[NUM_PREFLIGHT:]]


@pytest.fixture(scope="module")
def followed(
    tmp_path_factory: pytest.TempPathFactory, start_server: Any, train: Any, read_scalars: Any
) -> Followed:
    folder = tmp_path_factory.mktemp("follow")
    output = folder / "run"

    def serve(name: str) -> Any:
        server = start_server(
            "--follow", str(output / "checkpoints"), "--reward-log", str(folder / name)
        )
        server.wait_until_ready()
        return server

    def run(url: str) -> Any:
        return train("grpo", output, url, "--actor.adam.lr", "1e-4", SAR_WEIGHT="0.2")

    first = serve("first")
    killed = run(KillingFront(first, folder / "first").url)
    killed_code = killed.wait()
    killed_log = killed.log.read_text()
    killed_steps = set(read_scalars(output)["train/reward"])

    second = serve("second")
    continued = run(second.url)
    end_code = continued.wait()
    last = second.request("/healthz")[1]["policy_version"]
    while last < 3:
        last = second.request("/healthz")[1]["policy_version"]
    assert second.stop() == 0
    return Followed(
        output, killed_code, killed_log, killed_steps, end_code,
        continued.log.read_text()[len(killed_log) :],
        [server.log.read_text() for server in (first, second)], read_scalars(output),
        read_decisions(folder / "first"), read_decisions(folder / "second"),
    )  # fmt: skip


def of_step(followed: Followed, step: int, mode: str) -> list[dict[str, Any]]:
    """The decisions about the rollouts of a step. OpenRLHF generates one step after the other."""
    decisions = followed.first if step < 3 else followed.second
    chosen = [decision for decision in decisions if decision["mode"] == mode]
    size = NUM_ROLLOUTS if mode == "train" else NUM_PROBLEMS
    start = size * (step - 1) if step < 3 else 0
    return chosen[start : start + size]


def test_a_killed_server_ends_the_run_and_rewards_nothing(followed: Followed) -> None:
    assert followed.killed_code == 1
    assert followed.killed_steps == {1, 2}
    # OpenRLHF's own error, then the launcher's explanation.
    assert "Could not infer dtype of NoneType" in followed.killed_log
    last = followed.killed_log.splitlines()[-1]
    assert last.startswith("grpo.sh: the run ended with exit code 1. http://127.0.0.1:")
    assert "/get_reward cannot be reached" in last


def test_the_same_command_continues(followed: Followed) -> None:
    assert followed.end_code == 0, followed.end_log[-5000:]
    assert set(followed.scalars["train/reward"]) == {1, 2, 3}
    assert (followed.output / "final/model.safetensors").is_file()
    # The step that was lost trains on the same prompts again, and on no others.
    prompts = [{one["prompt"] for one in of_step(followed, step, "train")} for step in (1, 2, 3)]
    assert [len(one) for one in prompts] == [4, 4, 4]
    assert len(set.union(*prompts)) == NUM_PROBLEMS
    lost = {d["prompt"] for d in followed.first[BEFORE_STEP_3 - NUM_PREFLIGHT :]}
    assert lost
    assert lost <= prompts[2]


def test_the_server_takes_every_checkpoint(followed: Followed) -> None:
    taken = [set(map(int, re.findall(r"policy version (\d)", log))) for log in followed.server_logs]
    assert 1 in taken[0]
    assert taken[1] >= {2, 3}
    versions = followed.scalars["train/policy_version"]
    assert versions[1] == 0
    assert versions[2] <= 1  # the step may begin before the checkpoint is loaded
    assert versions[3] == 2
    for log in followed.server_logs:
        assert "refused" not in log
        assert "ERROR" not in log


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_rewards_that_train_are_the_servers(step: int, followed: Followed) -> None:
    decisions = of_step(followed, step, "train")
    rewards = [one["reward"] for one in decisions]
    assert len(rewards) == NUM_ROLLOUTS
    scalars = {name: values.get(step) for name, values in followed.scalars.items()}
    assert scalars["train/rollout/reward_mean"] == pytest.approx(statistics.mean(rewards))
    assert scalars["train/rollout/reward_std"] == pytest.approx(statistics.stdev(rewards))
    for ours, field in (
        ("sar", "sar"), ("correctness", "correctness"), ("ppl_qa", "ppl_qa"), ("ppl_a", "ppl_a"),
        ("response_tokens", "num_response_tokens"), ("policy_version", "policy_version"),
    ):  # fmt: skip
        expected = statistics.mean(one[field] for one in decisions)
        assert scalars[f"train/{ours}"] == pytest.approx(expected, rel=1e-5), ours
    assert statistics.stdev(rewards) > 0.01


@pytest.mark.parametrize("step", [1, 2, 3])
def test_evaluation_during_training_is_accuracy(
    step: int, followed: Followed, grade_apart: Callable[[dict[str, Any]], bool]
) -> None:
    decisions = of_step(followed, step, "eval")
    assert len({one["prompt"] for one in decisions}) == NUM_PROBLEMS
    accuracy = statistics.mean(map(grade_apart, decisions))
    assert followed.scalars["eval/eval_demo_pass1"][step] == pytest.approx(accuracy)
    assert 0 < accuracy < 1  # else a reward with SAR in it would hardly differ


@pytest.fixture(scope="module")
def grade_apart() -> Callable[[dict[str, Any]], bool]:
    """Right if the text after the last "Answer: " is the label's number. Uses nothing of ours."""

    def is_right(decision: dict[str, Any]) -> bool:
        found = re.findall(r"Answer: (\d+)(?=<|$)", decision["response"])
        return found[-1:] == [json.loads(decision["label"])["answer"]]

    return is_right
