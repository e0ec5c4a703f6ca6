"""python -m eval contamination TRAIN.jsonl [--benchmarks gsm8k,math] [--output found.json]

For each benchmark: the problems that share 13 consecutive words with the training file, and those
whose whole question it contains.
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
from sar.arguments import CommandParser
from sar.contamination import NGRAM_WORDS
from sar.errors import MAX_MESSAGE_CHARS, shorten


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 whatever is found; 2 for wrong flags or data."""
    arguments = _parse_args(argv)
    try:
        # Fail at once if the training file is missing; loading the benchmarks may take long.
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
        message = shorten(str(error), MAX_MESSAGE_CHARS)
        print(f"python -m eval contamination: {message}", file=sys.stderr)
        return 2
    print(_format_table(report))
    return 0


def search(
    train: Path, problems: Mapping[str, Sequence[Problem]], n: int
) -> tuple[list[ContaminatedProblem], int]:
    """Returns the contaminated problems and the number of training rows. Shows progress.

    Args:
        train: JSON lines.
        problems: by benchmark.
        n: words in an n-gram.
    Raises:
        ValueError: a line is not JSON.
        OSError: the file cannot be read.
    """
    from tqdm import tqdm

    contamination = ContaminationSearch(problems, n)
    num_rows = 0
    num_bytes = train.stat().st_size
    with tqdm(total=num_bytes, unit="B", unit_scale=True, desc=train.name, disable=None) as bar:
        for line, line_bytes, row in iter_training_rows(train):
            contamination.add(line, row)
            num_rows += 1
            bar.update(line_bytes)
    return contamination.list_problems(), num_rows


def make_report(
    train: Path,
    problems: Mapping[str, Sequence[Problem]],
    found: Sequence[ContaminatedProblem],
    num_rows: int,
    n: int,
) -> dict[str, Any]:
    """Counts and shares per benchmark, and the contaminated problems, as JSON values."""
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


def _format_table(report: Mapping[str, Any]) -> str:
    heads = ("problems", f"{report['n']}-gram", "share", "whole question", "share")
    lines: list[tuple[str, ...]] = [("benchmark", *heads)]
    columns = ("num_problems", "num_ngram", "share_ngram", "num_whole", "share_whole")
    for name, found in report["benchmarks"].items():
        cells = [f"{found[c]:.1%}" if "share" in c else f"{found[c]:,}" for c in columns]
        lines.append((name, *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [f"{report['train']}: {report['num_rows']:,} rows"]
    for name, *numbers in lines:
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
        shown.append("  ".join([name.ljust(widths[0]), *cells]))
    return "\n".join(shown)


def _parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="python -m eval contamination",
        description="Finds benchmark problems in a training file.",
    )
    parser.add_argument(
        "train",
        type=Path,
        metavar="TRAIN.jsonl",
        help="JSON lines; all strings of a row are searched, whatever their field",
    )
    parser.add_argument(
        "--benchmarks",
        default="all",
        help="all, or names separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder of the benchmarks' files (default: the Hugging Face hub)",
    )
    parser.add_argument("--output", type=Path, help="JSON file for the problems that were found")
    parser.add_argument(
        "--n", type=int, default=NGRAM_WORDS, help="words in an n-gram (default: %(default)s)"
    )
    return parser.parse_args(argv)
