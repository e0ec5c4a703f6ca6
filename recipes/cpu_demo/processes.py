"""One run as its processes: a server that follows the checkpoints, the trainer, the evaluation.

Each logs into the run's folder, and is stopped when the run ends, however it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from recipes.cpu_demo.plan import Run, Settings, start_of
from reward_server.launch import ServerDidNotStart, ServerProcess

_POLL_S = 0.2
_STOP_S = 30.0
# Each run gets one core; threads that spin while they wait would take the cores of other runs.
_ONE_CORE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


class Stopped(Exception):
    """Another run has failed, or the user has asked for it."""


class Failed(Exception):
    """A process of a run ended with an error; the message names its log."""


def train_and_evaluate(run: Run, settings: Settings, stop: threading.Event) -> None:
    """What is left of one run.

    Raises:
        Failed: a process ended with an error.
        Stopped: `stop` was set; what was running is ended.
    """
    if not run.final.is_dir():
        shutil.rmtree(run.folder, ignore_errors=True)  # a run that was cut short begins again
        run.checkpoints.mkdir(parents=True)
        with _serving(run, stop) as url:
            _finish(
                "train",
                run.folder,
                stop,
                *("-m", "recipes.cpu_demo.train", "--arm", run.arm.name, "--seed", str(run.seed)),
                *("--model", str(run.start), "--url", url, "--output", str(run.folder)),
                *("--settings", json.dumps(asdict(settings))),
            )
    evaluate(run.final, run.evaluation, settings, stop)


def evaluate(model: Path, output: Path, settings: Settings, stop: threading.Event) -> None:
    """Samples at temperature 1 on problems that no training has seen; goes on where it stopped."""
    output.mkdir(parents=True, exist_ok=True)
    _finish(
        "eval",
        output.parent,
        stop,
        *("-m", "eval", "run", "--benchmarks", "demo", "--model", str(model)),
        *("--limit", str(settings.eval_problems), "--n", str(settings.eval_samples)),
        *("--temperature", "1", "--grader-workers", "1"),
        *("--max-tokens", str(settings.max_response_tokens), "--output", str(output)),
    )


def evaluate_start(output: Path, settings: Settings, stop: threading.Event) -> None:
    """The model that all runs start from, as it is evaluated after them."""
    evaluate(start_of(output), start_of(output).parent / "eval", settings, stop)


def make_start(output: Path, settings: Settings, stop: threading.Event) -> None:
    """The model that all runs start from, unless it is there."""
    model = start_of(output)
    if not model.is_dir():
        model.parent.mkdir(parents=True, exist_ok=True)
        arguments = ("--output", str(model), "--steps", str(settings.num_start_steps))
        _finish("start", model.parent, stop, "-m", "recipes.cpu_demo.verbose", *arguments)


@contextmanager
def _serving(run: Run, stop: threading.Event) -> Iterator[str]:
    """Where a server that follows the run's checkpoints gives rewards, once it is ready."""
    arguments = (
        *("--model", str(run.start)),
        *("--sar-weight", f"{run.arm.sar_weight:g}", "--follow", str(run.checkpoints)),
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
        raise Failed(f"the server did not start: {log}") from error


def _finish(name: str, folder: Path, stop: threading.Event, *arguments: str) -> None:
    """Runs a program to its end."""
    with _process(name, folder, arguments) as process:
        while process.poll() is None:
            if stop.wait(_POLL_S):
                raise Stopped
    if process.returncode:
        raise Failed(f"exit code {process.returncode}: {folder / name}.log")


@contextmanager
def _process(
    name: str, folder: Path, arguments: Sequence[str]
) -> Iterator[subprocess.Popen[bytes]]:
    environ = {**os.environ, **_ONE_CORE}
    command = [sys.executable, *arguments]
    with (
        (folder / f"{name}.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environ) as process,  # noqa: S603
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
