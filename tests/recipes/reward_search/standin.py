"""A search whose training runs are computed: `python standin.py DIR [JSON]` runs one to its end.

The longer a reward's code, the shorter the responses that training on it "gives", up to a point
from which on they are wrong. Everything depends on the reward and the seed alone.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

from eval.records import Record, RecordWriter, records_path
from recipes.reward_search.candidates import Checked
from recipes.reward_search.generators.choose import make_generator
from recipes.reward_search.loop import Loop
from recipes.reward_search.report.write import write_report
from recipes.reward_search.screening import Trial, find_evaluation
from recipes.reward_search.settings import SearchSettings
from recipes.reward_search.state import Search, open_search
from recipes.training_run.processes import ProcessFailed, Stopped
from recipes.training_run.run import Arm


def measure_pressure(arm: Arm) -> float:
    """How much a reward is said to shorten: 0 for correctness alone."""
    if arm.reward_file is None:
        return arm.sar_weight
    terms = tomllib.loads(arm.reward_file.read_text())["terms"]
    folder = arm.reward_file.parent
    assert abs(sum(one["weight"] for one in terms) - 1) < 1e-9
    lengths = {one["name"]: len((folder / f"{one['name']}.py").read_text()) for one in terms}
    return sum(float(one["weight"]) * lengths[one["name"]] / 400 for one in terms)


class StandInScreener:
    """Writes the evaluation that a reward's training is said to give."""

    def __init__(
        self, folder: Path, settings: SearchSettings, *, run_s: float = 0.0, failing: str = ""
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.run_s = run_s
        self.failing = failing
        """Name of the reward whose training fails."""
        self.with_errors = ""
        """Name of the reward whose evaluation has an error."""
        self.trained: list[str] = []
        self.num_prepared = 0

    def prepare(self, stop: threading.Event) -> None:
        self.num_prepared += 1

    def run(self, trial: Trial, stop: threading.Event) -> None:
        evaluation = find_evaluation(self.folder, trial.arm.name, trial.seed)
        evaluation.mkdir(parents=True, exist_ok=True)
        (evaluation.parent / "checkpoints").mkdir(exist_ok=True)
        with (self.folder / "started.txt").open("a") as file:
            file.write(f"{trial.name}\n")
        if stop.wait(self.run_s):
            raise Stopped
        if trial.arm.name == self.failing:
            raise ProcessFailed("exit code 1: some.log")
        write_records(evaluation, trial, self.settings)
        if trial.arm.name == self.with_errors:
            with records_path(evaluation, "demo").open() as file:
                line = json.loads(file.readline())
            with records_path(evaluation, "demo").open("a") as file:
                file.write(json.dumps({**line, "correct": None, "error": "no grader"}) + "\n")
        self.trained.append(trial.name)


def write_records(evaluation: Path, trial: Trial, settings: SearchSettings) -> None:
    pressure = measure_pressure(trial.arm)
    length, accuracy = 60 / (1 + pressure), 0.85 - 0.4 * max(0.0, pressure - 1.2)
    rng = random.Random(trial.name)
    records_path(evaluation, "demo").unlink(missing_ok=True)
    writer = RecordWriter(records_path(evaluation, "demo"))
    for problem in range(settings.eval_problems):
        for sample in range(settings.eval_samples):
            is_right = rng.random() < accuracy
            has_answer = is_right or rng.random() < 0.7
            writer.write(
                Record(
                    id=str(problem),
                    sample=sample,
                    question="",
                    prompt="",
                    response="",
                    label="1",
                    correct=is_right,
                    reason="correct" if is_right else "wrong" if has_answer else "no_answer",
                    answer=None,
                    num_tokens=max(1, round(length * rng.uniform(0.7, 1.3))),
                    finish_reason="stop",
                    seed=0,
                )
            )
    writer.close()


def accept(source: str) -> Checked:
    return Checked(None)


def run_search(
    folder: Path,
    screener: StandInScreener,
    *,
    generator: Any = None,
    validate: Any = accept,
    jobs: int = 2,
    budget_s: float = 1e9,
) -> Search:
    folder.mkdir(exist_ok=True)
    search = open_search(folder, screener.settings)
    generator = generator or make_generator(screener.settings)
    Loop(search, generator, validate, screener, jobs=jobs, budget_s=budget_s).run()
    write_report(search)
    return search


def main() -> None:
    folder = Path(sys.argv[1])
    settings = SearchSettings(**json.loads(sys.argv[2]))
    run_search(folder, StandInScreener(folder, settings, run_s=0.1))
    print("finished")


if __name__ == "__main__":
    main()
