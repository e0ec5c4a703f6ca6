"""python -m recipes.reward_search run --generator URL|grammar|FOLDER --output DIR [...]
python -m recipes.reward_search report DIR [--update PAGE.md]
python -m recipes.reward_search compare DIR DIR [...]

Searches for a better reward: a language model or a grammar writes reward functions; each that is
accepted is trained on briefly and ranked; the ranking is fed back. The training runs are the CPU
demo's, or those of `--policy` on `--train-data`, ranked on `--benchmarks`. The same command
continues a search that was killed. docs/search.md explains it.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from recipes.reward_search.own.flags import add_own_flags, read_own_flags
from recipes.reward_search.settings import OWN_LEARNING_RATE, Feedback, RankBy, SearchSettings
from sar.arguments import CommandParser, number

if TYPE_CHECKING:
    from recipes.reward_search.own.policy import Policy
    from recipes.reward_search.screening import Screener

_PROGRAM = "python -m recipes.reward_search"
_DEMO_PROBLEMS = 200


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 if a run failed that all others need, or the endpoint no longer answers; 2
    for a wrong flag; 130 if stopped."""
    arguments = _make_parser().parse_args(argv)
    # Imported here, so that --help does not load scipy.
    from eval.errors import UserError
    from recipes.reward_search.generators.base import GeneratorError
    from recipes.training_run.processes import ProcessFailed
    from sar.errors import MAX_MESSAGE_CHARS, shorten
    from sar.pages import PageError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        commands = {"run": _run, "report": _report, "compare": _compare}
        commands[arguments.command](arguments)
    except (UserError, PageError, ProcessFailed, GeneratorError, ValueError) as error:
        message = shorten(str(error), MAX_MESSAGE_CHARS)
        print(f"{_PROGRAM} {arguments.command}: {message}", file=sys.stderr)
        return 1 if isinstance(error, (ProcessFailed, GeneratorError)) else 2
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
    report.add_argument("folder", type=Path, metavar="DIR", help="folder of the search")
    report.add_argument(
        "--update",
        type=Path,
        metavar="PAGE.md",
        help="also write the tables into this page, between its markers",
    )
    compare = commands.add_parser("compare", help="prints how several searches went, side by side")
    compare.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of searches")
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
    parser.add_argument(
        "--model",
        default=default.model,
        metavar="NAME",
        help="language model that writes rewards, as the endpoint names it (the model to train is "
        "--policy)",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the search: new, empty, or one to continue",
    )
    options: list[tuple[str, dict[str, Any], str]] = [
        ("rounds", whole, "rounds of candidates"),
        ("per-round", {**whole, "type": number(1, 99, kind=int)}, "candidates of a round"),
        ("top-k", whole, "candidates in an ensemble, and in the random draw"),
        ("num-seeds", whole, "training runs of the winner and of each control"),
        ("steps", whole, "training steps of a run"),
        (
            "eval-problems",
            {**whole, "type": number(4, kind=int)},
            "held-out problems of each benchmark; the demo's has 200. One half ranks, the other "
            "compares the finalists",
        ),
        ("eval-samples", whole, "responses to each held-out problem"),
        (
            "seed",
            {"type": number(0, kind=int), "metavar": "N"},
            "of the grammar, the random draw, and each reward's first training run",
        ),
        (
            "feedback",
            {"choices": get_args(Feedback)},
            "ranked: later rounds see how earlier candidates ranked; none: they see nothing",
        ),
        (
            "rank-by",
            {"choices": get_args(RankBy)},
            "aes: length saved + 5 x accuracy gained; f1: accuracy only, as in the paper",
        ),
    ]
    for name, kind, text in options:
        value = getattr(default, name.replace("-", "_"))
        parser.add_argument(
            f"--{name}", default=value, help=f"{text} (default: %(default)s)", **kind
        )
    parser.add_argument(
        "--learning-rate",
        type=number(1e-9, 1),
        metavar="X",
        help="at the first step; it falls linearly to 0 (default: "
        f"{default.learning_rate:g}; with --policy {OWN_LEARNING_RATE:g})",
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
        **whole,
        help="training runs at a time. The demo's take one core each (default: "
        f"{_count_cores()}); those of --policy take one GPU each (default: the "
        "number of GPUs), or share the cores if there is none (default: 1)",
    )
    add_own_flags(parser)


def _run(arguments: argparse.Namespace) -> None:
    from eval.run.output import lock_run
    from recipes.reward_search.generators.choose import make_generator
    from recipes.reward_search.loop import Loop
    from recipes.reward_search.own.policy import check_weights
    from recipes.reward_search.report.write import describe_end, write_report
    from recipes.reward_search.screening import marked_processes
    from recipes.reward_search.state import is_new_search, open_search
    from recipes.reward_search.validation import Validator

    settings, policy = _read_settings(arguments)
    generator = make_generator(settings)
    folder = arguments.output.resolve()
    is_new = is_new_search(folder)  # before the lock, which would leave a file in a foreign folder
    if is_new:
        generator.check()  # before the search's file, which would fix a wrong URL
    with lock_run(folder):
        if is_new and policy:
            check_weights(policy)
        search = open_search(folder, settings)
        screener, jobs = _make_screener(folder, settings, policy, arguments.jobs)
        budget_s = 60 * arguments.budget_minutes
        loop = Loop(search, generator, Validator(), screener, jobs=jobs, budget_s=budget_s)
        if not is_new and loop.will_propose:
            generator.check()
        with marked_processes(search.mark):
            loop.run()
        report = write_report(search)
    print(describe_end(search))
    print(f"report: {report}")


def _read_settings(arguments: argparse.Namespace) -> tuple[SearchSettings, Policy | None]:
    """The settings, and the checked policy if it is not the demo's."""
    from eval.errors import UserError
    from recipes.reward_search.own.policy import check_own

    own = read_own_flags(arguments)
    if own is None and arguments.eval_problems > _DEMO_PROBLEMS:
        raise UserError(
            f"--eval-problems {arguments.eval_problems}: the demo's benchmark has {_DEMO_PROBLEMS}"
        )
    policy = check_own(own, arguments.eval_problems) if own else None
    values = {
        name: getattr(arguments, name)
        for name in SearchSettings.__dataclass_fields__
        if getattr(arguments, name, None) is not None
    }
    if own:
        values.setdefault("learning_rate", OWN_LEARNING_RATE)
    return SearchSettings(**values, own=policy.settings if policy else None), policy


def _make_screener(
    folder: Path, settings: SearchSettings, policy: Policy | None, jobs: int | None
) -> tuple[Screener, int]:
    """What trains, and how many runs at a time."""
    from recipes.reward_search.own.gpus import Places, list_gpus
    from recipes.reward_search.own.screener import OwnScreener
    from recipes.reward_search.screening import CpuDemoScreener

    if policy is None:
        return CpuDemoScreener(folder, settings), jobs or _count_cores()
    gpus = list_gpus()
    jobs = jobs or max(1, len(gpus))
    return OwnScreener(folder, settings, policy, Places(gpus, jobs)), jobs


def _count_cores() -> int:
    return len(os.sched_getaffinity(0))


def _report(arguments: argparse.Namespace) -> None:
    from recipes.reward_search.report.markdown import check_page, update_page
    from recipes.reward_search.report.write import write_report
    from recipes.reward_search.state import load_search

    search = load_search(arguments.folder.resolve())
    if arguments.update:
        check_page(arguments.update)
    print(f"report: {write_report(search)}")
    if arguments.update:
        update_page(arguments.update, search)


def _compare(arguments: argparse.Namespace) -> None:
    from recipes.reward_search.report.markdown import format_searches
    from recipes.reward_search.state import load_search

    print(format_searches([load_search(folder.resolve()) for folder in arguments.folders]), end="")


if __name__ == "__main__":
    sys.exit(main())
