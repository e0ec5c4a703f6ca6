"""The processes of one run: a reward server that follows the checkpoints, trainer, evaluation.

Each process logs into the run's folder. None outlives its run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recipes.training_run.run import Run
from reward_server.launch import ServerDidNotStart, ServerProcess

_POLL_S = 0.2
_TERMINATE_TIMEOUT_S = 30.0


class Stopped(Exception):
    """The run was stopped: another run failed, or the user asked for it."""


class ProcessFailed(Exception):
    """A process ended with an error; the message names its log."""


@dataclass(frozen=True)
class Commands:
    """What a run's processes are started with, besides what all runs have in common."""

    train: tuple[str, ...]
    """For Python: a module that also takes --seed, --model, --url and --output."""
    evaluate: tuple[str, ...]
    """Flags of `python -m eval run`."""
    environ: Mapping[str, str]
    """Environment variables to add."""
    server: tuple[str, ...] = ()
    """Flags of the reward server."""
    server_timeout_s: float = 120.0
    """Until the server has loaded its model."""


def train_and_evaluate(run: Run, commands: Commands, stop: threading.Event) -> None:
    """Trains one run, unless it is finished, and evaluates its final model.

    Raises:
        ProcessFailed: a process ended with an error.
        Stopped: `stop` was set. The run's processes have ended.
    """
    if not run.final.is_dir():
        shutil.rmtree(run.folder, ignore_errors=True)  # an interrupted run starts again
        run.checkpoints.mkdir(parents=True)
        with _run_server(run, commands, stop) as url:
            run_program(
                "train",
                run.folder,
                stop,
                commands.environ,
                *commands.train,
                *("--seed", str(run.seed), "--model", str(run.start_model)),
                *("--url", url, "--output", str(run.folder)),
            )
    evaluate(run.final, run.evaluation, commands, stop)


def evaluate(model: Path, output: Path, commands: Commands, stop: threading.Event) -> None:
    """Evaluates a model. Continues where it was interrupted."""
    output.mkdir(parents=True, exist_ok=True)
    run_program(
        "eval",
        output.parent,
        stop,
        commands.environ,
        *("-m", "eval", "run", "--model", str(model), "--output", str(output)),
        *commands.evaluate,
    )


@contextmanager
def _run_server(run: Run, commands: Commands, stop: threading.Event) -> Iterator[str]:
    """Runs a reward server that follows the run's checkpoints. Yields its URL for rewards."""
    arguments = (
        *("--model", str(run.start_model)),
        *run.arm.server_flags,
        *("--follow", str(run.checkpoints)),
        *("--reward-log", str(run.rewards)),
        *("--grader-workers", "1"),
        *commands.server,
    )
    log = run.folder / "server.log"
    try:
        with ServerProcess(
            *arguments,
            log=log,
            environ=commands.environ,
            timeout_s=commands.server_timeout_s,
            is_cancelled=stop.is_set,
        ) as server:
            server.wait_until_ready()
            yield f"{server.url}/get_reward"
    except ServerDidNotStart as error:
        if stop.is_set():
            raise Stopped from error
        raise ProcessFailed(f"the server did not start: {log}") from error


def run_program(
    name: str, folder: Path, stop: threading.Event, environ: Mapping[str, str], *arguments: str
) -> None:
    """Runs `python ARGUMENTS` to its end, logging to `folder/name.log`.

    Args:
        environ: environment variables to add.
    Raises:
        ProcessFailed: it ended with an error.
        Stopped: `stop` was set. The process has ended.
    """
    log = folder / f"{name}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603
            [sys.executable, *arguments],
            stdout=output,
            stderr=output,
            env={**os.environ, **environ},
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
