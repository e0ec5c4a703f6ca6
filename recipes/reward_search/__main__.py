"""python -m recipes.reward_search run --generator URL|grammar|FOLDER --output DIR [...]
python -m recipes.reward_search report DIR [--update PAGE.md]
python -m recipes.reward_search compare DIR DIR [...]

Searches for a better reward: a language model or a grammar writes reward functions; each that is
accepted is trained on briefly (the CPU demo's GRPO runs) and ranked; the ranking is fed back. The
same command continues a search that was killed. docs/search.md explains it.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from recipes.reward_search.settings import Feedback, RankBy, SearchSettings
from sar.arguments import CommandParser, number

_PROGRAM = "python -m recipes.reward_search"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if a run failed that all others need, 2 for a wrong flag, 130 if stopped."""
    arguments = _make_parser().parse_args(argv)
    # Imported here, so that --help does not load scipy.
    from eval.errors import UserError
    from recipes.cpu_demo.processes import ProcessFailed
    from sar.errors import MAX_MESSAGE_CHARS, shorten
    from sar.pages import PageError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        commands = {"run": _run, "report": _report, "compare": _compare}
        commands[arguments.command](arguments)
    except (UserError, PageError, ProcessFailed, ValueError) as error:
        message = shorten(str(error), MAX_MESSAGE_CHARS)
        print(f"{_PROGRAM} {arguments.command}: {message}", file=sys.stderr)
        return 1 if isinstance(error, ProcessFailed) else 2
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=_PROGRAM, description="Searches for a better reward by short training runs."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands.add_parser("run", help="searches, or continues a search"))
    report = commands.add_parser("report", help="writes the report of a search again")
    report.add_argument("folder", type=Path, metavar="DIR")
    report.add_argument(
        "--update",
        type=Path,
        metavar="PAGE.md",
        help="also write the tables into this page, between its markers",
    )
    compare = commands.add_parser("compare", help="prints how several searches went, side by side")
    compare.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    default = SearchSettings("")
    whole: dict[str, Any] = {"type": number(1, kind=int), "metavar": "N"}
    parser.add_argument(
        "--generator",
        required=True,
        metavar="URL|grammar|FOLDER",
        help="an OpenAI-compatible chat endpoint such as http://localhost:8000/v1 (its key: "
        "REWARD_SEARCH_KEY), a seeded grammar, or a folder of candidates",
    )
    parser.add_argument("--model", default=default.model, help="the model's name, for a URL")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    options: list[tuple[str, dict[str, Any], str]] = [
        ("rounds", whole, "rounds of candidates"),
        ("per-round", {**whole, "type": number(1, 99, kind=int)}, "candidates of a round"),
        ("top-k", whole, "candidates in an ensemble"),
        ("num-seeds", whole, "training runs of the winner and of each control"),
        ("steps", whole, "training steps of a run"),
        ("learning-rate", {"type": number(1e-9, 1), "metavar": "X"}, "at the first step"),
        (
            "eval-problems",
            {**whole, "type": number(4, 200, kind=int)},
            "held-out problems: one half ranks, the other compares the finalists",
        ),
        ("eval-samples", whole, "responses to each of them"),
        ("seed", {"type": number(0, kind=int), "metavar": "N"}, "of grammar, draw and first runs"),
        ("feedback", {"choices": get_args(Feedback)}, "what later rounds see of earlier ones"),
        ("rank-by", {"choices": get_args(RankBy)}, "the paper ranks by F1"),
    ]
    for name, kind, text in options:
        value = getattr(default, name.replace("-", "_"))
        parser.add_argument(
            f"--{name}", default=value, help=f"{text} (default: %(default)s)", **kind
        )
    parser.add_argument(
        "--budget-minutes",
        type=number(0.1),
        default=math.inf,
        metavar="M",
        help="for the whole search, its earlier starts included (default: no limit)",
    )
    parser.add_argument(
        "--jobs",
        **{**whole, "default": len(os.sched_getaffinity(0))},
        help="training runs at a time; each takes one core (default: %(default)s)",
    )


def _run(arguments: argparse.Namespace) -> None:
    from eval.run.output import lock_run
    from recipes.reward_search.generators.choose import make_generator
    from recipes.reward_search.loop import Loop
    from recipes.reward_search.report.write import describe_end, write_report
    from recipes.reward_search.screening import CpuDemoScreener, marked_processes
    from recipes.reward_search.state import open_search
    from recipes.reward_search.validation import Validator

    settings = SearchSettings(
        **{name: getattr(arguments, name) for name in SearchSettings.__dataclass_fields__}
    )
    generator = make_generator(settings)
    folder = arguments.output.resolve()
    with lock_run(folder):
        search = open_search(folder, settings)
        screener = CpuDemoScreener(folder, settings)
        with marked_processes(search.mark):
            Loop(
                search,
                generator,
                Validator(),
                screener,
                jobs=arguments.jobs,
                budget_s=60 * arguments.budget_minutes,
            ).run()
        report = write_report(search)
    print(describe_end(search))
    print(f"report: {report}")


def _report(arguments: argparse.Namespace) -> None:
    from recipes.reward_search.report.markdown import update_page
    from recipes.reward_search.report.write import write_report
    from recipes.reward_search.state import load_search

    search = load_search(arguments.folder.resolve())
    print(f"report: {write_report(search)}")
    if arguments.update:
        update_page(arguments.update, search)


def _compare(arguments: argparse.Namespace) -> None:
    from recipes.reward_search.report.markdown import format_searches
    from recipes.reward_search.state import load_search

    print(format_searches([load_search(folder.resolve()) for folder in arguments.folders]), end="")


if __name__ == "__main__":
    sys.exit(main())
