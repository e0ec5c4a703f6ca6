"""Screening runs: short GRPO runs of the CPU demo, several at a time, until a deadline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recipes.cpu_demo.leftovers import Leftovers
from recipes.cpu_demo.plan import Settings, start_model_path
from recipes.cpu_demo.processes import make_start_model, train_and_evaluate
from recipes.reward_search.scores import PARTS, read_samples
from recipes.reward_search.settings import SearchSettings
from recipes.training_run.processes import ProcessFailed, Stopped
from recipes.training_run.run import Arm, Run

_DONE_FILE = ".done"


@dataclass(frozen=True)
class Trial:
    """One reward with one seed: a training run and its evaluation."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.name}-{self.seed}"


class Screener(Protocol):
    """Trains and evaluates."""

    def prepare(self, stop: threading.Event) -> None:
        """What all runs need; done once."""

    def run(self, trial: Trial, stop: threading.Event) -> None:
        """Trains and evaluates into `find_evaluation`'s folder.

        Raises:
            ProcessFailed: the run ended with an error.
            Stopped: `stop` was set; the run's processes have ended.
        """


def find_evaluation(folder: Path, name: str, seed: int) -> Path:
    """The folder of one run's evaluation.

    Args:
        folder: of the search.
        name: of the reward.
    """
    return folder / "runs" / f"{name}-{seed}" / "eval"


def is_done(folder: Path, name: str, seed: int) -> bool:
    """Whether a run and its evaluation are complete, without errors."""
    return (find_evaluation(folder, name, seed) / _DONE_FILE).is_file()


class CpuDemoScreener:
    """Screens with the CPU demo's runs, made shorter."""

    def __init__(self, folder: Path, settings: SearchSettings) -> None:
        self._folder = folder
        self._settings = Settings(
            num_steps=settings.steps,
            learning_rate=settings.learning_rate,
            eval_problems=settings.eval_problems,
            eval_samples=settings.eval_samples,
        )

    def prepare(self, stop: threading.Event) -> None:
        make_start_model(self._folder, self._settings, stop)

    def run(self, trial: Trial, stop: threading.Event) -> None:
        evaluation = find_evaluation(self._folder, trial.arm.name, trial.seed)
        run = Run(trial.arm, trial.seed, evaluation.parent, start_model_path(self._folder))
        train_and_evaluate(run, self._settings, stop)


@contextmanager
def marked_processes(mark: str) -> Iterator[None]:
    """Marks all processes that are started in the block, and first ends those of the same mark: a
    search that was killed left them."""
    leftovers = Leftovers(mark)
    leftovers.remove()
    os.environ.update(leftovers.environ)
    try:
        yield
    finally:
        for name in leftovers.environ:
            os.environ.pop(name, None)


def run_trials(
    folder: Path,
    trials: Iterable[Trial],
    screener: Screener,
    stop: threading.Event,
    jobs: int,
    *,
    may_start: Callable[[Trial], bool],
    on_end: Callable[[Trial, float, ProcessFailed | None], None],
) -> list[Trial]:
    """Runs trials, `jobs` at a time, in order.

    Args:
        folder: of the search.
        may_start: asked just before a trial starts. From the first False on, none starts.
        on_end: called with a trial that has ended, its seconds, and what failed.
    Returns:
        The trials that did not start or were stopped.
    """
    left: list[Trial] = []
    waiting = list(trials)
    running: dict[Future[float], Trial] = {}
    with ThreadPoolExecutor(jobs, thread_name_prefix="screening") as threads:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    if stop.is_set() or not may_start(waiting[0]):
                        left, waiting = left + waiting, []
                        break
                    trial = waiting.pop(0)
                    running[threads.submit(_run_timed, folder, trial, screener, stop)] = trial
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    trial = running.pop(future)
                    try:
                        on_end(trial, future.result(), None)
                    except ProcessFailed as error:
                        on_end(trial, 0.0, error)
                    except Stopped:
                        left.append(trial)
        except BaseException:
            stop.set()  # the threads end their processes; leaving the block waits for them
            raise
    return left


def _run_timed(folder: Path, trial: Trial, screener: Screener, stop: threading.Event) -> float:
    started_s = time.monotonic()
    screener.run(trial, stop)
    evaluation = find_evaluation(folder, trial.arm.name, trial.seed)
    try:
        for part in PARTS:
            read_samples(evaluation, part)
    except ValueError as error:
        raise ProcessFailed(str(error)) from error
    (evaluation / _DONE_FILE).touch()
    return time.monotonic() - started_s
