"""Attacks a reward: sends some 70 ways to earn without solving, beside honest right answers.

python -m sar probe
python -m sar probe --model MODEL --reward reward.toml
python -m sar probe --url http://any:KEY@host:5000/get_reward --tokenizer MODEL
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sar.arguments import CommandParser, looks_like_folder, number
from sar.errors import MAX_MESSAGE_CHARS, one_line, shorten

if TYPE_CHECKING:
    from sar.grading.processes.pool import GraderPool
    from sar.probe.battery import Results
    from sar.probe.problems import Problem
    from sar.probe.scorer import Scorer
    from sar.probe.tables import Report
    from sar.terms.composition import Composition

DEFAULT = "default"
"""Names the reward without a file."""
_NUM_PROBLEMS = 20
_GRADER_TIMEOUT_S = 5.0
_EPILOG = """
what is found:
  FAILED  an attack that does not solve is graded right, or earns more than honest right answers
  note    an attack earns more than honest answers that are wrong (where no answer of a group is
          right, this is what a policy learns), or is right and earns more than the honest answer;
          which term would end it, and with which weight on top of the reward

exit status:
  0 nothing has failed; 1 something has; 2 a wrong option, file, model or server
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    if arguments.list:
        return _list_attacks()
    from sar.pages import PageError, check_page
    from sar.probe.problems import ProblemError
    from sar.probe.scorer import ProbeError
    from sar.terms.reward_file import RewardFileError

    try:
        if arguments.update:
            check_page(arguments.update, _name_command(argv))  # before minutes of scoring
        report, results = _probe(arguments)
        _write(report, results, arguments, argv)
    except BrokenPipeError:
        raise
    except PageError as error:
        sys.stderr.write(f"error: --update {error}\n")
        return 2
    except (ProbeError, ProblemError, RewardFileError) as error:
        sys.stderr.write(f"error: {shorten(str(error), MAX_MESSAGE_CHARS)}\n")
        return 2
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    return 1 if report.has_failed else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sar probe",
        description=(
            "Attacks a reward: shows what ways to earn without solving are paid, beside honest\n"
            "right answers to the same problems. docs/probe.md explains the table."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--model", metavar="MODEL", help="score here with this model (default: the bundled one)"
    )
    where.add_argument(
        "--url",
        help="score with a running server, such as http://host:5000/get_reward; it may hold a key: "
        "http://any:KEY@host:5000/get_reward",
    )
    parser.add_argument(
        "--reward",
        action="append",
        metavar="FILE.toml",
        help=f"reward file; several are compared, and '{DEFAULT}' is the reward without a file. "
        "Not with --url",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE.jsonl",
        help="your problems: JSON lines with question, label and response, an honest right one "
        "(default: bundled word problems)",
    )
    parser.add_argument(
        "--num-problems",
        type=number(1, 10_000, int),
        default=_NUM_PROBLEMS,
        help=f"problems that are attacked, the first ones of --data (default: {_NUM_PROBLEMS})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all responses and numbers")
    parser.add_argument(
        "--update",
        type=Path,
        metavar="PAGE.md",
        help="write the tables into a page, between the markers that name this command",
    )
    parser.add_argument("--list", action="store_true", help="list the attacks, and send none")
    parser.add_argument(
        "--system-prompt", help="system prompt in the prompts (default: the server's)"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="with --url: whose chat template renders the prompts (default: the server's model, if "
        "it is found here)",
    )
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="with --url: environment variable that holds the key"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="precision of --model, as the server's --dtype (default: auto)",
    )
    return parser


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends with a message if options do not fit together."""
    if arguments.url:
        if arguments.reward:
            parser.error("--reward: not with --url, whose server has its own; use --model")
    else:
        for name in ("tokenizer", "api_key_env"):
            if getattr(arguments, name) is not None:
                parser.error(f"--{name.replace('_', '-')}: only with --url")
    if arguments.api_key_env and not os.environ.get(arguments.api_key_env):
        parser.error(f"--api-key-env {arguments.api_key_env}: the variable is not set")
    for name in ("model", "tokenizer"):
        value = getattr(arguments, name)
        if value is not None and not value.strip():
            parser.error(f"--{name} is empty")
        if value and looks_like_folder(value) and not Path(value).is_dir():
            parser.error(f"--{name} {value!r}: no such folder")


def _list_attacks() -> int:
    from sar.probe.attacks import ATTACKS
    from sar.probe.tables import BLIND_TITLE, STYLED_TITLE

    for title, solves in ((BLIND_TITLE, False), (STYLED_TITLE, True)):
        chosen = [one for one in ATTACKS if one.solves == solves]
        width = max(len(one.name) for one in chosen)
        lines = (f"  {one.name:<{width}}  {one.trick}\n" for one in chosen)
        sys.stdout.write(f"{title} ({len(chosen)}):\n{''.join(lines)}\n")
    return 0


def _probe(arguments: argparse.Namespace) -> tuple[Report, Results]:
    """Runs the battery.

    Raises:
        ProbeError, ProblemError, RewardFileError, OSError: it cannot be run.
    """
    from tqdm import tqdm
    from transformers.utils import logging as transformers_logging

    from sar.models import BUNDLED_MODEL
    from sar.probe.battery import make_case, run_battery, summarize
    from sar.probe.client import ServerScorer
    from sar.probe.findings import find
    from sar.probe.local import LocalScorer, load_scorer, load_tokenizer
    from sar.probe.tables import Report
    from sar.prompts import DEFAULT_SYSTEM_PROMPT

    transformers_logging.disable_progress_bar()
    system = arguments.system_prompt
    system = DEFAULT_SYSTEM_PROMPT if system is None else system
    rewards = _read_rewards(arguments.reward or [DEFAULT])
    with _open_graders() as graders:
        problems = _read_problems(arguments, graders)
        scorer: Scorer
        if arguments.url:
            key = os.environ[arguments.api_key_env] if arguments.api_key_env else None
            server = ServerScorer(arguments.url, key)
            model = server.model
            own, tokenizer = load_tokenizer(arguments.tokenizer or model, system)
            server.tokenizer = tokenizer
            scorer = server
        else:
            model = arguments.model or str(BUNDLED_MODEL)
            loaded = load_scorer(model, arguments.dtype)
            own, tokenizer = load_tokenizer(model, system, loaded.max_context_tokens)
            scorer = LocalScorer(loaded, tokenizer, graders, rewards)
        cases = [make_case(one, own, tokenizer.end_tokens, system) for one in problems]
        with tqdm(total=len(cases), desc="problems", disable=None) as bar:
            results = run_battery(cases, scorer, bar.update)
    rows = summarize(results)
    shown = "the bundled demo model" if model == str(BUNDLED_MODEL) else model
    compares = not arguments.url and any(one.group_size for one in rewards.values())
    findings = find(results, rows, scorer.rewards)
    return Report(shown, len(cases), scorer.rewards, rows, findings, compares), results


def _read_rewards(names: Sequence[str]) -> dict[str, Composition]:
    """The rewards by the name of their file.

    Raises:
        RewardFileError: a file cannot be read, or is wrong, or two have the same name.
    """
    from sar.reward import DEFAULT_SAR_WEIGHT
    from sar.terms.reward_file import RewardFileError, default_composition, read_reward_file

    rewards: dict[str, Composition] = {}
    for name in names:
        stem = Path(name).stem
        if stem in rewards:
            raise RewardFileError(f"{name}: two rewards are called {stem!r}; rename a file")
        rewards[stem] = (
            default_composition(DEFAULT_SAR_WEIGHT)
            if name == DEFAULT
            else read_reward_file(Path(name))
        )
    return rewards


@contextmanager
def _open_graders() -> Iterator[GraderPool]:
    from sar.grading.processes.pool import GraderPool

    with closing(GraderPool(min(os.cpu_count() or 1, 4), _GRADER_TIMEOUT_S)) as graders:
        yield graders


def _read_problems(arguments: argparse.Namespace, graders: GraderPool) -> list[Problem]:
    from sar.probe.problems import list_bundled, read_problems

    if arguments.data is None:
        return list_bundled(arguments.num_problems)
    return read_problems(arguments.data, graders.grade, arguments.num_problems)


def _name_command(argv: Sequence[str]) -> str:
    """The command line, as a page names it above what the command wrote."""
    return f"python -m sar probe {shlex.join(argv)}"


def _write(
    report: Report, results: Results, arguments: argparse.Namespace, argv: Sequence[str]
) -> None:
    from sar.files import write_atomically
    from sar.pages import update_page
    from sar.probe.report_json import to_json
    from sar.probe.tables import format_report, render_report

    if arguments.json:
        write_atomically(arguments.json, to_json(report, results))
    if arguments.update:
        update_page(arguments.update, _name_command(argv), render_report(report))
    sys.stdout.write(format_report(report))
