"""What `python -m eval run` costs besides the model: time to grade, record and resume; memory.

    python -m performance --only evaluation

A backend with prepared responses replaces the model; everything else is the real code, over 10,000
problems in GSM8K's schema. Each run is a separate process, so that its memory can be measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eval.backends.base import BackendDescription, Completion, Completions, Request
from eval.run.command import run
from eval.run.config import parse_args
from performance.report import Measurement
from performance.workload import read_status_bytes
from sar.models.problems import generate

MAX_GRADING_S = 60.0
MAX_RESUME_S = 5.0
# Enough for a problem and the numbers that metrics need, too little for a response.
MAX_BYTES_PER_SAMPLE = 6000
NUM_SAMPLES = 10_000
NUM_RESUMES = 3
_NUM_WORKERS = 2
_SEED = 7
# Responses of reasoning models are long: each gets some 3,000 characters in front.
_FILLER = "First, look at what the question says, and write down each number with its unit. " * 40


class PreparedBackend:
    """Answers each request at once with the prepared response to its problem."""

    description = BackendDescription(None)

    def __init__(self, responses: list[str]) -> None:
        self._responses = responses

    def render_prompt(self, system_prompt: str, user_turn: str) -> str:
        return f"{system_prompt}\n{user_turn}"

    def generate(self, requests: Iterable[Request]) -> Completions:
        for request in requests:
            response = _FILLER + self._responses[int(request.key.problem.id)]
            yield Completion(request, response, len(response) // 4, "stop")

    def close(self) -> None:
        pass


def measure(quick: bool) -> list[Measurement]:
    """Seconds of a run, seconds to start a finished run again, and bytes for each sample."""
    num_samples = NUM_SAMPLES // (50 if quick else 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_problems(folder, num_samples)
        small, large = (_measure_run(folder, size) for size in (num_samples // 4, num_samples))
        resumes = [
            _time_resumed_run(folder, num_samples) for _ in range(1 if quick else NUM_RESUMES)
        ]
    growth = (large["peak_bytes"] - small["peak_bytes"]) / (num_samples - num_samples // 4)
    return [
        Measurement(
            f"evaluation: {num_samples:,} responses graded and recorded",
            [large["seconds"]],
            "s",
            at_most=MAX_GRADING_S,
            details={"grader processes": _NUM_WORKERS, "characters of a response": len(_FILLER)},
        ),
        Measurement(
            f"evaluation: a finished run of {num_samples:,} started again",
            resumes,
            "s",
            at_most=MAX_RESUME_S,
        ),
        Measurement(
            "evaluation: memory for each further sample",
            [growth],
            "bytes",
            at_most=MAX_BYTES_PER_SAMPLE,
            details={"peak_bytes": [small["peak_bytes"], large["peak_bytes"]]},
        ),
    ]


def _write_problems(folder: Path, num_samples: int) -> None:
    """Writes a --data-dir with problems in GSM8K's schema, and their responses beside them."""
    problems = list(islice(generate(_SEED, held_out=True), num_samples))
    rows = [{"question": p.question, "answer": f"{p.concise}\n#### {p.answer}"} for p in problems]
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "responses.json").write_text(json.dumps([p.padded for p in problems]))


def _make_flags(folder: Path, num_samples: int) -> list[str]:
    return [
        "--output", str(folder / f"run-{num_samples}"), "--data-dir", str(folder),
        "--benchmarks", "gsm8k", "--limit", str(num_samples), "--grader-workers", str(_NUM_WORKERS),
    ]  # fmt: skip


def _measure_run(folder: Path, num_samples: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "performance.evaluation", str(folder), str(num_samples)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _time_resumed_run(folder: Path, num_samples: int) -> float:
    command = [sys.executable, "-m", "eval", "run", *_make_flags(folder, num_samples)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _run_in_this_process(folder: Path, num_samples: int) -> dict[str, float]:
    """Runs an evaluation in this process; returns its seconds and its peak resident memory."""
    responses = json.loads((folder / "responses.json").read_text())
    config = parse_args(_make_flags(folder, num_samples))
    started = time.perf_counter()
    with (
        patch("eval.run.command.load_backend", lambda _: PreparedBackend(responses)),
        redirect_stdout(StringIO()),
    ):
        if run(config) != 0:
            raise RuntimeError("the evaluation failed")
    return {
        "seconds": time.perf_counter() - started,
        "peak_bytes": read_status_bytes("VmHWM"),
    }


if __name__ == "__main__":
    print(json.dumps(_run_in_this_process(Path(sys.argv[1]), int(sys.argv[2]))))
