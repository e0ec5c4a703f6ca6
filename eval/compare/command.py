"""python -m eval compare RUN_A RUN_B [RUN_C ...] --output report/

Compares runs over the same problems; the first run is the baseline. Writes into the output folder:
report.html (one file that loads nothing from the network), report.md, comparison.json, and figures/
as PNG and SVG.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.statistics.metrics import NUM_RESAMPLES
from sar.arguments import CommandParser, number
from sar.errors import MAX_MESSAGE_CHARS, shorten


def main(argv: Sequence[str]) -> int:
    """Exit code: 0; 2 if the runs cannot be compared."""
    try:
        _compare(_parse_args(argv))
    except (ValueError, OSError) as error:
        message = shorten(str(error), MAX_MESSAGE_CHARS)
        print(f"python -m eval compare: {message}", file=sys.stderr)
        return 2
    return 0


def _compare(arguments: argparse.Namespace) -> None:
    """Writes the report and prints a summary of it."""
    # Imported here, so that --help does not load scipy and jinja2.
    from eval.compare.comparison import compare_runs
    from eval.compare.report.wording import summarize_pair
    from eval.compare.report.write import write_report

    comparison = compare_runs(
        arguments.runs,
        allow_different_inputs=arguments.allow_different_inputs,
        k=arguments.k,
        num_resamples=arguments.resamples,
        seed=arguments.seed,
    )
    write_report(
        comparison,
        arguments.output,
        correction=arguments.correction,
        max_disagreements=arguments.max_disagreements,
        seed=arguments.seed,
    )
    for note in comparison.notes:
        print(f"note: {note}")
    for pair in comparison.pairs:
        print(f"{pair.other.name} against {comparison.baseline.name}:")
        for line in summarize_pair(pair, arguments.correction):
            print(f"  {line}")
    print(f"report: {arguments.output / 'report.html'}")


def _parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="python -m eval compare",
        description="Compares runs over the same problems; the first run is the baseline.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--output", required=True, type=Path, help="folder for the report")
    parser.add_argument(
        "--allow-different-inputs",
        action="store_true",
        help="compare runs even if their data or prompts differ; problems are then paired by id "
        "alone, and the report lists what differs",
    )
    parser.add_argument(
        "--correction",
        choices=("holm", "bonferroni"),
        default="holm",
        help="correction of p-values for the number of tests (default: %(default)s)",
    )
    parser.add_argument(
        "--k", type=number(1, kind=int), help="for pass@k (default: the smallest n of the runs)"
    )
    parser.add_argument(
        "--resamples",
        type=number(1, kind=int),
        default=NUM_RESAMPLES,
        help="resamples of the bootstrap and of permutation tests (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=number(0, kind=int),
        default=0,
        help="seed of all resampling (default: %(default)s)",
    )
    parser.add_argument(
        "--max-disagreements",
        type=number(0, kind=int),
        default=100,
        metavar="N",
        help="problems to show in the report, for each benchmark and pair of runs "
        "(default: %(default)s)",
    )
    return parser.parse_args(argv)
