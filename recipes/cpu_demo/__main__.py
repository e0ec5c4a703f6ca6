"""python -m recipes.cpu_demo [--quick] [--trainer trl|openrlhf] [--arms ARMS] [--output FOLDER]

Trains a small model on correctness, on correctness + 0.2 SAR and on SAR alone, and evaluates on
unseen problems. A reward server for each run follows the policy's checkpoints.
With `--arms all`, it also trains on rewards composed of other terms; with `--arms hacked`, on two
that the policy learns to game. It then draws tradeoff.png too.
With `--trainer openrlhf`, recipes/grpo.sh trains on the first two rewards, in OpenRLHF's own loop.
Writes results.json, table.md and curves.png into the output folder. The same command continues an
interrupted demo: finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

from eval.errors import UserError
from eval.records import write_json
from eval.run.output import lock_run
from recipes.cpu_demo.arms import EXTRA_ARMS
from recipes.cpu_demo.openrlhf_environ import find_missing_parts
from recipes.cpu_demo.plan import (
    FULL,
    OPENRLHF_FULL,
    OPENRLHF_QUICK,
    QUICK,
    Settings,
    plan_runs,
    start_model_path,
)
from recipes.cpu_demo.processes import (
    evaluate_start_model,
    make_start_model,
    train_and_evaluate,
)
from recipes.training_run.processes import ProcessFailed, Stopped
from recipes.training_run.run import Run
from sar.arguments import number

_PROGRESS_INTERVAL_S = 1.0
_SETTINGS_FILE = "settings.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if a run failed, 2 for a wrong flag, 130 if the user stopped it."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    settings = QUICK if arguments.quick else FULL
    if arguments.trainer == "openrlhf":
        settings = OPENRLHF_QUICK if arguments.quick else OPENRLHF_FULL
        if missing := find_missing_parts():
            parser.error(
                f"--trainer openrlhf needs {', '.join(missing)}: make train-demo TRAINER=openrlhf"
            )
    extra = EXTRA_ARMS[arguments.arms]
    runs = list(plan_runs(arguments.output, arguments.quick, arguments.trainer, extra=extra))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started_s = time.monotonic()
    try:
        with lock_run(arguments.output):
            _save_settings(settings, arguments.output)
            print("training the start model", file=sys.stderr)
            make_start_model(arguments.output, settings, threading.Event())
            # A run of OpenRLHF takes all cores: its parts are processes of their own.
            jobs = 1 if arguments.trainer == "openrlhf" else arguments.jobs
            _run_all(runs, settings, arguments.output, jobs)
            _write_report(runs, arguments.output, has_tradeoff=bool(extra))
    except (UserError, ProcessFailed) as error:
        print(f"python -m recipes.cpu_demo: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from here", file=sys.stderr)
        return 130
    print(f"{(time.monotonic() - started_s) / 60:.1f} minutes; {arguments.output / 'curves.png'}")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.cpu_demo",
        description="Trains a small model on three rewards on a CPU and compares the results.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"two arms, one seed, {QUICK.num_steps} steps: under ten minutes",
    )
    parser.add_argument(
        "--trainer",
        choices=["trl", "openrlhf"],
        default="trl",
        help="openrlhf needs what `make openrlhf-test` installs, and its Python (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--arms",
        choices=list(EXTRA_ARMS),
        default="default",
        help="all: also four composed rewards; hacked: also two rewards that the policy learns to "
        "game; two seeds each",
    )
    parser.add_argument("--output", type=Path, default=Path("build/train-demo"))
    parser.add_argument(
        "--jobs",
        type=number(1, kind=int),
        default=len(os.sched_getaffinity(0)),
        help="runs at a time; each takes one core (default: %(default)s)",
    )
    return parser


def _save_settings(settings: Settings, output: Path) -> None:
    """
    Raises:
        UserError: the folder has runs with other settings.
    """
    file = output / _SETTINGS_FILE
    if file.is_file() and json.loads(file.read_text()) != asdict(settings):
        raise UserError(f"{output} has runs with other settings; give another --output")
    write_json(file, asdict(settings))


def _run_all(runs: Sequence[Run], settings: Settings, output: Path, jobs: int) -> None:
    """
    Raises:
        ProcessFailed: a run failed; the others have been stopped.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as threads:
        futures = [threads.submit(train_and_evaluate, run, settings, stop) for run in runs]
        futures.append(threads.submit(evaluate_start_model, output, settings, stop))
        try:
            _show_progress(runs, settings, futures)
        finally:
            stop.set()
            for future in futures:
                future.cancel()
    errors = [future.exception() for future in futures if not future.cancelled()]
    for error in errors:
        if error and not isinstance(error, Stopped):
            raise error


def _show_progress(
    runs: Sequence[Run], settings: Settings, futures: Sequence[Future[None]]
) -> None:
    """Shows a bar over the steps of all runs until all are done or one has failed."""
    from tqdm import tqdm

    with tqdm(total=len(runs) * settings.num_steps, unit="step") as bar:
        while True:
            done, running = wait(futures, _PROGRESS_INTERVAL_S, FIRST_EXCEPTION)
            bar.update(sum(_count_steps(run) for run in runs) - bar.n)
            if not running or any(future.exception() for future in done):
                return


def _count_steps(run: Run) -> int:
    if not run.steps_file.is_file():
        return 0
    with run.steps_file.open("rb") as file:
        return sum(1 for _ in file)


def _write_report(runs: Sequence[Run], output: Path, *, has_tradeoff: bool) -> None:
    # Imported here: --help need not wait for scipy and matplotlib.
    from recipes.cpu_demo.curves import draw_curves, draw_tradeoff
    from recipes.cpu_demo.results import build_table, format_table

    table = build_table(runs, start_model_path(output).parent / "eval")
    write_json(output / "results.json", [row.to_json() for row in table])
    (output / "table.md").write_text(format_table(table))
    draw_curves(runs, output / "curves.png")
    if has_tradeoff:
        draw_tradeoff(table, output / "tradeoff.png")
    print(format_table(table))


if __name__ == "__main__":
    sys.exit(main())
