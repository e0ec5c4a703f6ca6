"""The processes of the demo: those of each run, and the start model's training and evaluation."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from pathlib import Path

from recipes.cpu_demo.plan import Settings, list_arm_flags, start_model_path
from recipes.training_run import processes
from recipes.training_run.processes import Commands, run_program
from recipes.training_run.run import Run

# Each run gets one core. Waiting threads that spin would take the cores of other runs.
_ONE_CORE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


def train_and_evaluate(run: Run, settings: Settings, stop: threading.Event) -> None:
    """Trains one run, unless it is finished, and evaluates its final model on unseen problems.

    Raises:
        ProcessFailed: a process ended with an error.
        Stopped: `stop` was set. The run's processes have ended.
    """
    flags = (*list_arm_flags(run.arm), "--settings", json.dumps(asdict(settings)))
    processes.train_and_evaluate(run, _make_commands(settings, flags), stop)


def evaluate_start_model(output: Path, settings: Settings, stop: threading.Event) -> None:
    """Evaluates the start model in the same way as the final models."""
    model = start_model_path(output)
    processes.evaluate(model, model.parent / "eval", _make_commands(settings), stop)


def make_start_model(output: Path, settings: Settings, stop: threading.Event) -> None:
    """Trains the model that all runs start from, unless it exists."""
    model = start_model_path(output)
    if not model.is_dir():
        model.parent.mkdir(parents=True, exist_ok=True)
        arguments = ("--output", str(model), "--steps", str(settings.num_start_steps))
        program = ("-m", "recipes.cpu_demo.verbose", *arguments)
        run_program("start", model.parent, stop, _ONE_CORE, *program)


def _make_commands(settings: Settings, train_flags: tuple[str, ...] = ()) -> Commands:
    return Commands(
        train=("-m", settings.program, *train_flags),
        evaluate=(
            *("--benchmarks", "demo", "--limit", str(settings.eval_problems)),
            *("--n", str(settings.eval_samples), "--temperature", "1", "--grader-workers", "1"),
            *("--max-tokens", str(settings.max_response_tokens)),
        ),
        environ=_ONE_CORE,
    )
