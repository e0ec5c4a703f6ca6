"""OpenRLHF's own training loop on a CPU, started by recipes/*.sh.

Everything is real but for what a CPU lacks (recipes/cpu_demo/shim): OpenRLHF 0.11.2 with its Ray
actors, DeepSpeed, vLLM and the weights that it sends to vLLM; our launcher, agent and server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from recipes.cpu_demo.leftovers import Leftovers
from recipes.cpu_demo.openrlhf_environ import find_missing_parts, make_environ
from recipes.cpu_demo.train_openrlhf import read_scalars as read_tensorboard
from sar.models.problems import ArithmeticProblem, generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "openrlhf-cpu"
TIMEOUT_S = 900.0
LOOK_INTERVAL_S = 2.0

NUM_PROMPTS, PROMPTS_PER_STEP, SAMPLES_PER_PROMPT = 12, 4, 4


@pytest.fixture(scope="session", autouse=True)
def parts() -> None:
    """Skips the folder without the trainer and what it needs. `make real-test` installs them."""
    if missing := find_missing_parts():
        reason = f"{', '.join(missing)} not installed: make openrlhf-test"
        if os.environ.get("REAL_TEST") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


class TrainingRun:
    """A running `recipes/ALGORITHM.sh` and all processes that it started."""

    def __init__(self, output: Path, command: list[str], settings: dict[str, str]) -> None:
        self.output = output
        self.log = output.with_suffix(".log")
        self._leftovers = Leftovers()
        # Ray's sockets lie in it, and a socket's path has at most 107 characters.
        self._ray_folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        environ = {**make_environ(CACHE, output.parent), **settings}
        environ |= {**self._leftovers.environ, "RAY_TMPDIR": self._ray_folder}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        self._deadline_s = time.monotonic() + TIMEOUT_S
        self._next_look_s = 0.0

    def wait(self) -> int:
        """Waits for the end, and removes what the run left behind. Returns the exit code."""
        while self._process.poll() is None:
            self._pause()
        self.close()
        return self._process.returncode

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-5000:]

    def close(self) -> None:
        """Ends what still runs, and removes what the run left."""
        self._leftovers.remove()
        shutil.rmtree(self._ray_folder, ignore_errors=True)

    def _pause(self) -> None:
        now_s = time.monotonic()
        assert now_s < self._deadline_s, f"no end\n{self.tail()}"
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_INTERVAL_S
            self._leftovers.look()
        time.sleep(0.05)


@pytest.fixture(scope="session")
def run_environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_environ(CACHE, tmp_path_factory.mktemp("environ"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl and eval.jsonl: word problems that the bundled model can solve."""
    folder = tmp_path_factory.mktemp("data")
    train, unseen = generate(seed=5, held_out=False), generate(seed=5, held_out=True)
    _write_rows(folder / "train.jsonl", islice(train, 128), "train")  # the launcher's minimum
    # The model solves about half of the problems with three steps.
    hard = (problem for problem in unseen if problem.num_steps == 3)
    _write_rows(folder / "eval.jsonl", islice(hard, NUM_PROMPTS), "eval")
    return folder


def _write_rows(path: Path, problems: Iterable[ArithmeticProblem], mode: str) -> None:
    path.write_text("".join(json.dumps(_make_row(one, mode)) + "\n" for one in problems))


def _make_row(problem: ArithmeticProblem, mode: str) -> dict[str, Any]:
    user_turn = f"{problem.question} {INSTRUCTION}"
    return {
        "prompt": [
            {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
            {"role": "user", "content": user_turn},
        ],
        "label": json.dumps({"answer": str(problem.answer), "grader": "math", "mode": mode}),
        "datasource": "demo",
    }


@pytest.fixture(scope="session")
def train(data: Path, bundled_model_path: Path) -> Iterator[Callable[..., TrainingRun]]:
    """Starts a run of three small steps: `train("grpo", output, url, "--flag", SETTING="1")`."""
    started: list[TrainingRun] = []

    def start(algorithm: str, output: Path, url: str, *flags: str, **settings: str) -> TrainingRun:
        small = [
            *("--rollout.batch_size", str(PROMPTS_PER_STEP), "--train.batch_size", "8"),
            *("--data.max_samples", str(NUM_PROMPTS), "--data.max_len", "512"),
            *("--rollout.max_new_tokens", "64", "--vllm.enforce_eager"),
            *("--train.max_tokens_per_gpu", "2048", "--rollout.max_tokens_per_gpu", "2048"),
        ]
        defaults = {
            "MODEL_PATH": str(bundled_model_path), "DATA": str(data), "OUTPUT": str(output),
            "REWARD_URLS": f"{url}/get_reward", "GPUS_PER_NODE": "1", "STEPS": "1",
            "N_SAMPLES": str(SAMPLES_PER_PROMPT), "SAVE_STEPS": "1", "EVAL_STEPS": "1",
        }  # fmt: skip
        script = str(ROOT / "recipes" / f"{algorithm}.sh")
        run = TrainingRun(
            output, [script, "Qwen3-1.7B-Base", *small, *flags], {**defaults, **settings}
        )
        started.append(run)
        return run

    yield start
    for run in started:
        run.close()


@pytest.fixture(scope="session")
def read_scalars() -> Callable[[Path], dict[str, dict[int, float]]]:
    """Reads what a run wrote for TensorBoard: name to step to value."""

    return lambda output: read_tensorboard(output / "tensorboard")
