"""The processes of one run: a reward server that follows the checkpoints, trainer, evaluation.

Each process logs into the run's folder. None outlives its run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from recipes.cpu_demo.plan import Run, Settings, start_model_path
from reward_server.launch import ServerDidNotStart, ServerProcess

_POLL_S = 0.2
_TERMINATE_TIMEOUT_S = 30.0
# Each run gets one core. Waiting threads that spin would take the cores of other runs.
_ONE_CORE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


class Stopped(Exception):
    """The run was stopped: another run failed, or the user asked for it."""


class ProcessFailed(Exception):
    """A process ended with an error; the message names its log."""


def train_and_evaluate(run: Run, settings: Settings, stop: threading.Event) -> None:
    """Trains one run, unless it is finished, and evaluates its final model.

    Raises:
        ProcessFailed: a process ended with an error.
        Stopped: `stop` was set. The run's processes have ended.
    """
    if not run.final.is_dir():
        shutil.rmtree(run.folder, ignore_errors=True)  # an interrupted run starts again
        run.checkpoints.mkdir(parents=True)
        with _run_server(run, stop) as url:
            _run_program(
                "train",
                run.folder,
                stop,
                *("-m", settings.program, *run.program_flags, "--seed", str(run.seed)),
                *("--model", str(run.start_model), "--url", url, "--output", str(run.folder)),
                *("--settings", json.dumps(asdict(settings))),
            )
    evaluate(run.final, run.evaluation, settings, stop)


def evaluate(model: Path, output: Path, settings: Settings, stop: threading.Event) -> None:
    """Evaluates a model on unseen problems at temperature 1. Continues where it was interrupted."""
    output.mkdir(parents=True, exist_ok=True)
    _run_program(
        "eval",
        output.parent,
        stop,
        *("-m", "eval", "run", "--benchmarks", "demo", "--model", str(model)),
        *("--limit", str(settings.eval_problems), "--n", str(settings.eval_samples)),
        *("--temperature", "1", "--grader-workers", "1"),
        *("--max-tokens", str(settings.max_response_tokens), "--output", str(output)),
    )


def evaluate_start_model(output: Path, settings: Settings, stop: threading.Event) -> None:
    """Evaluates the start model in the same way as the final models."""
    model = start_model_path(output)
    evaluate(model, model.parent / "eval", settings, stop)


def make_start_model(output: Path, settings: Settings, stop: threading.Event) -> None:
    """Trains the model that all runs start from, unless it exists."""
    model = start_model_path(output)
    if not model.is_dir():
        model.parent.mkdir(parents=True, exist_ok=True)
        arguments = ("--output", str(model), "--steps", str(settings.num_start_steps))
        _run_program("start", model.parent, stop, "-m", "recipes.cpu_demo.verbose", *arguments)


@contextmanager
def _run_server(run: Run, stop: threading.Event) -> Iterator[str]:
    """Runs a reward server that follows the run's checkpoints. Yields its URL for rewards."""
    arguments = (
        *("--model", str(run.start_model)),
        *run.arm.server_flags,
        *("--follow", str(run.checkpoints)),
        *("--reward-log", str(run.rewards)),
        *("--grader-workers", "1"),
    )
    log = run.folder / "server.log"
    try:
        with ServerProcess(
            *arguments, log=log, environ=_ONE_CORE, is_cancelled=stop.is_set
        ) as server:
            server.wait_until_ready()
            yield f"{server.url}/get_reward"
    except ServerDidNotStart as error:
        if stop.is_set():
            raise Stopped from error
        raise ProcessFailed(f"the server did not start: {log}") from error


def _run_program(name: str, folder: Path, stop: threading.Event, *arguments: str) -> None:
    """Runs `python ARGUMENTS` to its end, logging to `folder/name.log`."""
    log = folder / f"{name}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603
            [sys.executable, *arguments],
            stdout=output,
            stderr=output,
            env={**os.environ, **_ONE_CORE},
        ) as process,
    ):
        try:
            while process.poll() is None:
                if stop.wait(_POLL_S):
                    raise Stopped
        finally:
            process.terminate()
            try:
                process.wait(_TERMINATE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
    if process.returncode:
        raise ProcessFailed(f"exit code {process.returncode}: {log}")
