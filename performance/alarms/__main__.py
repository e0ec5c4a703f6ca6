"""python -m performance.alarms RUNS_FOLDER... [--output FILE.json] [--update docs/alarms.md]

Measures what the alarms of `sar.alarms` are worth on the runs of `python -m recipes.cpu_demo`: was
each hacked run noticed, how many steps before accuracy fell, and how often healthy runs give false
alarms. The thresholds were chosen on the runs of seed 0, so the tables keep these apart. Runs whose
training has not ended are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from performance.alarms.report import CHOSEN_ON_SEED, UPDATE_COMMAND, render_tables
from performance.alarms.runs import RunError, find_runs, is_finished, read_run
from performance.report import RESULTS
from sar.pages import update_page
from sar.rescore import RescoreError

DEFAULT_OUTPUT = RESULTS / "alarms.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for the user's mistake."""
    arguments = _make_parser().parse_args(argv)
    try:
        if arguments.folders:
            measured = measure(arguments.folders)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(measured, indent=1) + "\n")
        else:
            measured = json.loads(arguments.output.read_text())
        if arguments.update:
            update_page(arguments.update, UPDATE_COMMAND, render_tables(measured))
    except (RunError, RescoreError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(render_tables(measured))
    return 0


def measure(folders: Sequence[Path]) -> dict[str, Any]:
    """Measures all finished runs in these folders. Faults are put into healthy runs of other seeds
    than the one that the thresholds were chosen on.

    Raises:
        RunError: a folder has no finished run, or is not named or set up as one.
        RescoreError: a reward log cannot be read.
    """
    runs: list[dict[str, Any]] = []
    faults: list[dict[str, Any]] = []
    for path in (path for folder in folders for path in find_runs(folder)):
        if not is_finished(path):
            print(f"{path}: left out, its training has not ended", file=sys.stderr)
            continue
        run = read_run(path)
        runs.append(run.measure())
        if not run.is_hacked and run.seed != CHOSEN_ON_SEED:
            faults += run.measure_faults()
    if not runs:
        raise RunError(f"{folders[0]}: no run whose training has ended")
    return {"chosen_on_seed": CHOSEN_ON_SEED, "runs": runs, "faults": faults}


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m performance.alarms",
        description="Measures what the alarms are worth on runs of the training demo.",
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="RUNS_FOLDER",
        help="as build/train-demo; none: take what --output holds",
    )
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="JSON file (default: %(default)s)"
    )
    parser.add_argument(
        "--update",
        type=Path,
        metavar="PAGE.md",
        help="write the tables into a page, between its markers",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
