"""python -m eval contamination TRAIN.jsonl [--benchmarks gsm8k,math] [--output found.json]

The share of each benchmark's problems that share 13 words in a row with the training file, or
stand in it whole, and which they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.benchmarks import Problem, choose_benchmarks, load_problems
from eval.contamination.overlap import ContaminatedProblem, ContaminationSearch, iter_training_rows
from eval.records import write_json
from sar.contamination import NGRAM_WORDS


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 whatever is found; 2 where it could not be looked for, with a line why."""
    arguments = _parser().parse_args(argv)
    try:
        # First, as the benchmarks may come from the hub, in their own time.
        arguments.train.open("rb").close()
        problems = {
            benchmark.name: load_problems(benchmark, arguments.data_dir).problems
            for benchmark in choose_benchmarks(arguments.benchmarks)
        }
        found, num_rows = search(arguments.train, problems, arguments.n)
        report = make_report(arguments.train, problems, found, num_rows, arguments.n)
        if arguments.output is not None:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.output, report)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"python -m eval contamination: {error}\n")
        return 2
    sys.stdout.write(_table(report))
    return 0


def search(
    train: Path, problems: Mapping[str, Sequence[Problem]], n: int
) -> tuple[list[ContaminatedProblem], int]:
    """Contaminated problems, and how many rows the training file has. Shows progress in bytes.

    Raises:
        ValueError: a line is not JSON.
        OSError: the file cannot be read.
    """
    from tqdm import tqdm

    seen = ContaminationSearch(problems, n)
    num_rows = 0
    progress = tqdm(
        total=train.stat().st_size, unit="B", unit_scale=True, desc=train.name, disable=None
    )
    with progress:
        for line, num_bytes, row in iter_training_rows(train):
            seen.add(line, row)
            num_rows += 1
            progress.update(num_bytes)
    return seen.list_problems(), num_rows


def make_report(
    train: Path,
    problems: Mapping[str, Sequence[Problem]],
    found: Sequence[ContaminatedProblem],
    num_rows: int,
    n: int,
) -> dict[str, Any]:
    """Counts and shares per benchmark, and the problems found."""
    benchmarks = {}
    for name, of_one in problems.items():
        items = [problem for problem in found if problem.benchmark == name]
        num_whole = sum(problem.whole for problem in items)
        benchmarks[name] = {
            "num_problems": len(of_one),
            "num_ngram": len(items),
            "share_ngram": len(items) / len(of_one),
            "num_whole": num_whole,
            "share_whole": num_whole / len(of_one),
            "items": [asdict(problem) for problem in items],
        }
    return {"train": str(train), "num_rows": num_rows, "n": n, "benchmarks": benchmarks}


def _table(report: Mapping[str, Any]) -> str:
    heads = ("benchmark", "problems", f"{report['n']}-gram", "share", "whole question", "share")
    lines = [heads]
    for name, counts in report["benchmarks"].items():
        lines.append(
            (
                name,
                f"{counts['num_problems']:,}",
                f"{counts['num_ngram']:,}",
                f"{counts['share_ngram']:.1%}",
                f"{counts['num_whole']:,}",
                f"{counts['share_whole']:.1%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return f"{report['train']}: {report['num_rows']:,} rows\n" + "\n".join(shown) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval contamination",
        description="Looks for the benchmarks' problems in a training file.",
    )
    parser.add_argument(
        "train",
        type=Path,
        metavar="TRAIN.jsonl",
        help="JSON lines; every string of a row is searched, whatever its field",
    )
    parser.add_argument(
        "--benchmarks",
        default="all",
        help="names with commas between them, or all (default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="folder with the benchmarks' files (default: the hub)"
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file for what was found, problem by problem"
    )
    parser.add_argument(
        "--n", type=int, default=NGRAM_WORDS, help="words in an n-gram (default: %(default)s)"
    )
    return parser
