"""python -m eval compare RUN_A RUN_B [RUN_C ...] --output report/

Compares runs over the same problems; the first run is the baseline. Writes into the output folder:
report.html (one file, asks the network for nothing), report.md, comparison.json, and figures/ as
PNG and SVG.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.statistics.metrics import NUM_RESAMPLES
from sar.arguments import number


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 2 where the runs cannot be compared, with one line that says why."""
    arguments = _parser().parse_args(argv)
    try:
        sys.stdout.write(_compare(arguments))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"python -m eval compare: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval compare",
        description="Compares runs over the same problems; the first one is the baseline.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--output", required=True, type=Path, help="folder for the report")
    parser.add_argument(
        "--allow-different-inputs",
        action="store_true",
        help="compare runs over different data or prompts; problems are paired by their ids "
        "whatever they say, and the report names what differs",
    )
    parser.add_argument(
        "--correction",
        choices=("holm", "bonferroni"),
        default="holm",
        help="for the number of tests (default: %(default)s)",
    )
    parser.add_argument(
        "--k", type=number(1, kind=int), help="pass@k (default: the smallest n of the runs)"
    )
    parser.add_argument(
        "--resamples",
        type=number(1, kind=int),
        default=NUM_RESAMPLES,
        help="of the bootstrap and of permutation tests (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=number(0, kind=int), default=0, help="of resampling (default: %(default)s)"
    )
    parser.add_argument(
        "--max-disagreements",
        type=number(0, kind=int),
        default=100,
        metavar="N",
        help="problems in the report's browser, for each benchmark and pair of runs "
        "(default: %(default)s)",
    )
    return parser


def _compare(arguments: argparse.Namespace) -> str:
    """Writes the report; returns what to print."""
    # Here, so that --help does not wait for scipy.
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
    lines = [f"note: {note}" for note in comparison.notes]
    for pair in comparison.pairs:
        lines.append(f"{pair.other.name} against {comparison.baseline.name}:")
        lines += [f"  {line}" for line in summarize_pair(pair, arguments.correction)]
    return "\n".join([*lines, f"report: {arguments.output / 'report.html'}"]) + "\n"
