"""One run: OpenRLHF's own training loop, started by recipes/grpo.sh, on a CPU.

    python -m recipes.cpu_demo.train_openrlhf --arm sar --seed 0 --model build/.../start/model \
        --url http://127.0.0.1:5000/get_reward --output build/train-demo-openrlhf/sar-0

It needs the environment of `make openrlhf-test`. Departures from the paper (arXiv:2509.05489),
besides the size of everything and those of recipes/grpo.sh: the learning rate is 2.5e-4, not 1e-6,
and falls to 0.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from recipes.cpu_demo.leftovers import Leftovers
from recipes.cpu_demo.openrlhf_environ import make_environ
from recipes.cpu_demo.plan import (
    DATA_SEED,
    MAX_PROBLEM_STEPS,
    OPENRLHF_FULL,
    Settings,
    parse_run,
)
from recipes.launch.settings import PROMPTS_PER_STEP
from recipes.launch.training import run_training
from recipes.training_run.run import Run
from sar.files import write_atomically
from sar.models.problems import ArithmeticProblem, generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION

_SCRIPT = Path(__file__).parents[1] / "grpo.sh"
_CACHE = Path(__file__).parents[2] / "build" / "openrlhf-cpu"
_INTERVAL_S = 5.0
_PREFIX = "train/"
# Our name of what the curves show, and OpenRLHF's.
_LENGTH = ("completions/mean_length", "rollout/response_length_mean")


def train(run: Run, settings: Settings, url: str) -> int:
    """Trains one arm with one seed. Writes checkpoints, the final model and each step's numbers.

    Returns:
        The exit code of recipes/grpo.sh.
    """
    _write_rows(run, settings)
    # Ray's sockets lie in it, and a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray_folder:
        os.environ.update(make_environ(_CACHE, run.folder))
        os.environ.update(_make_recipe_settings(run, settings, url), RAY_TMPDIR=ray_folder)
        leftovers = Leftovers()
        os.environ.update(leftovers.environ)
        with _watch(run, leftovers):
            return run_training([str(_SCRIPT), "Qwen3-1.7B-Base", *_make_flags(settings)])


def _write_rows(run: Run, settings: Settings) -> None:
    """Writes the prompts of all steps. They depend on the seed, not on the arm."""
    num_rows = settings.num_steps * settings.prompts_per_step
    if num_rows % PROMPTS_PER_STEP:
        raise ValueError(f"{num_rows} prompts are not a multiple of {PROMPTS_PER_STEP}")
    problems = generate(DATA_SEED + run.seed, held_out=False)
    chosen = (one for one in problems if one.num_steps <= MAX_PROBLEM_STEPS)
    rows = [_make_row(problem, "train") for problem in islice(chosen, num_rows)]
    folder = run.folder / "data"
    folder.mkdir()
    for name, written in (("train", rows), ("eval", [_make_row(next(chosen), "eval")])):
        text = "".join(json.dumps(row) + "\n" for row in written)
        (folder / f"{name}.jsonl").write_text(text)


def _make_row(problem: ArithmeticProblem, mode: str) -> dict[str, Any]:
    turns = [
        {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
        {"role": "user", "content": f"{problem.question} {INSTRUCTION}"},
    ]
    label = json.dumps({"answer": str(problem.answer), "grader": "math", "mode": mode})
    return {"prompt": turns, "label": label, "datasource": "demo"}


def _make_recipe_settings(run: Run, settings: Settings, url: str) -> dict[str, str]:
    """The environment variables of recipes/grpo.sh."""
    num_rows = settings.num_steps * settings.prompts_per_step
    file = run.arm.reward_file
    return {
        **({"REWARD": str(file)} if file else {"SAR_WEIGHT": f"{run.arm.sar_weight:g}"}),
        "MODEL_PATH": str(run.start_model.resolve()),
        "DATA": str(run.folder / "data"),
        "OUTPUT": str(run.folder),
        "REWARD_URLS": url,
        "SEED": str(run.seed + 1),
        "GPUS_PER_NODE": "1",
        "STEPS": str(num_rows // PROMPTS_PER_STEP),  # of 128 prompts; the flags make them smaller
        "N_SAMPLES": str(settings.rollouts_per_prompt),
        "SAVE_STEPS": str(settings.save_every_steps),
        "EVAL_STEPS": str(settings.num_steps + 1),
    }


def _make_flags(settings: Settings) -> list[str]:
    num_rollouts = settings.prompts_per_step * settings.rollouts_per_prompt
    return [
        *("--rollout.batch_size", str(settings.prompts_per_step)),
        *("--train.batch_size", str(num_rollouts)),
        *("--rollout.max_new_tokens", str(settings.max_response_tokens), "--data.max_len", "512"),
        *("--train.max_tokens_per_gpu", "2048", "--rollout.max_tokens_per_gpu", "2048"),
        *("--actor.adam.lr", str(settings.learning_rate), "--actor.lr_scheduler", "linear"),
        "--vllm.enforce_eager",
    ]


@contextmanager
def _watch(run: Run, leftovers: Leftovers) -> Iterator[None]:
    """Keeps `run.steps_file` up to date with what OpenRLHF writes for TensorBoard, and removes in
    the end what its processes leave."""
    is_over = threading.Event()

    def watch_until_over() -> None:
        while not is_over.wait(_INTERVAL_S):
            leftovers.look()
            write_steps(run)

    watcher = threading.Thread(target=watch_until_over, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        write_steps(run)
        leftovers.remove()


def write_steps(run: Run) -> None:
    """Writes one JSON object for each step so far, with the fields that the curves show."""
    steps: dict[int, dict[str, float]] = {}
    for name, values in read_scalars(run.folder / "tensorboard").items():
        if not name.startswith(_PREFIX):
            continue
        for step, value in values.items():
            steps.setdefault(step, {"step": step})[name.removeprefix(_PREFIX)] = value
    ours, theirs = _LENGTH
    lines = [json.dumps({**steps[n], ours: steps[n][theirs]}) for n in sorted(steps)]
    write_atomically(run.steps_file, "".join(line + "\n" for line in lines))


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Reads what a run wrote for TensorBoard: name to step to value.

    A run that continued has several files. A step that is in two of them has the later value.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars: dict[str, dict[int, float]] = {}
    files = folder.rglob("events*")
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for name in events.Tags()["scalars"]:
            found = {event.step: event.value for event in events.Scalars(name)}
            scalars.setdefault(name, {}).update(found)
    return scalars


def main(argv: Sequence[str] | None = None) -> int:
    run, settings, url = parse_run("recipes.cpu_demo.train_openrlhf", OPENRLHF_FULL, argv)
    shutil.rmtree(run.folder / "data", ignore_errors=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    return train(run, settings, url)


if __name__ == "__main__":
    sys.exit(main())
