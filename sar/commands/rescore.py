"""Computes the rewards of reward logs again, and reports what changed.

python -m sar rescore LOG [LOG ...] --reward FILE.toml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, get_args

from sar.arguments import CommandParser, number
from sar.commands.grader_options import add_grader_options, open_graders
from sar.errors import MAX_MESSAGE_CHARS, shorten
from sar.files import open_atomically
from sar.grading.label import GraderName

if TYPE_CHECKING:
    from sar.recompose import Recomposer
    from sar.rescore import LoggedDecision, Rescored, Summary


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    is_regrading = arguments.regrade or arguments.grader is not None
    if arguments.reward and arguments.sar_weight is not None:
        parser.error("--sar-weight: not with --reward, whose file has the weight of each term")
    for name in ("grader_workers", "grader_timeout"):
        if getattr(arguments, name) is not None and not is_regrading:
            parser.error(f"--{name.replace('_', '-')} needs --regrade or --grader")
    return _rescore_files(arguments, is_regrading)


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sar rescore",
        description=(
            "Computes the rewards in a log again and reports what changed. The log comes from "
            "`python -m reward_server --reward-log`. Without options, no reward should change."
        ),
    )
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path, help="log file or folder")
    parser.add_argument(
        "--sar-weight", type=number(-100, 100), help="weight of SAR (default: as logged)"
    )
    parser.add_argument(
        "--reward",
        type=Path,
        metavar="FILE.toml",
        help="compute the reward of this file, group terms included",
    )
    parser.add_argument("--regrade", action="store_true", help="grade again, as each label asks")
    parser.add_argument(
        "--grader",
        choices=get_args(GraderName),
        help="grade again, with this grader whatever the label asks",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.jsonl",
        help="write all decisions with their new rewards; `was` holds the old values",
    )
    add_grader_options(parser)
    return parser


def _rescore_files(arguments: argparse.Namespace, is_regrading: bool) -> int:
    from sar.rescore import RescoreError, find_log_files, write_all
    from sar.terms.reward_file import RewardFileError

    try:
        recomposer = _open_reward_file(arguments.reward)
        files = find_log_files(arguments.logs)
        with (
            _open_output(arguments.output, arguments.logs) as output,
            _read_with_progress(files) as log,
            closing(_rescore_log(arguments, is_regrading, log, recomposer)) as rescored,
        ):
            summary = write_all(rescored, output)
    except (RescoreError, RewardFileError, OSError) as error:
        sys.stderr.write(f"error: {shorten(str(error), MAX_MESSAGE_CHARS)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped: no output was written\n")
        return 130
    sys.stdout.write(_format_summary(summary, recomposer))
    return 0


def _open_reward_file(path: Path | None) -> Recomposer | None:
    """
    Raises:
        RewardFileError: the file cannot be read, or is wrong.
    """
    if path is None:
        return None
    from sar.recompose import Recomposer
    from sar.terms.reward_file import read_reward_file

    return Recomposer(read_reward_file(path))


def _rescore_log(
    arguments: argparse.Namespace,
    is_regrading: bool,
    log: Iterator[LoggedDecision],
    recomposer: Recomposer | None,
) -> Generator[Rescored, None, None]:
    from sar.rescore import keep_rewards, keep_verdicts, regrade, reweigh

    if not (is_regrading or recomposer or arguments.sar_weight is not None):
        yield from keep_rewards(log)
        return
    with ExitStack() as stack:
        if is_regrading:
            graders, num_in_flight = stack.enter_context(open_graders(arguments))
            judged = regrade(log, graders, num_in_flight=num_in_flight, grader=arguments.grader)
        else:
            judged = keep_verdicts(log)
        if recomposer:
            yield from recomposer.recompose(judged)
        else:
            yield from reweigh(judged, sar_weight=arguments.sar_weight)


@contextmanager
def _read_with_progress(files: Sequence[Path]) -> Iterator[Iterator[LoggedDecision]]:
    """The decisions of all files. A terminal gets a progress bar."""
    from tqdm import tqdm

    from sar.rescore import read_log

    total = sum(file.stat().st_size for file in files)
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, desc="rescoring") as bar:

        def warn(place: str) -> None:
            bar.write(f"warning: {place}: skipped an incomplete last line", file=sys.stderr)

        yield (
            logged for file in files for logged in read_log(file, on_torn=warn, on_bytes=bar.update)
        )


def _open_output(path: Path | None, logs: Sequence[Path]) -> AbstractContextManager[TextIO | None]:
    """Opens the output file, if there is one.

    Raises:
        RescoreError: the file would replace a log, or lie in a folder of logs.
    """
    from sar.rescore import RescoreError

    if path is None:
        return nullcontext()
    if not {path.resolve(), path.resolve().parent}.isdisjoint(log.resolve() for log in logs):
        raise RescoreError(
            f"--output {path}: would replace a log or be read as one; choose another folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return open_atomically(path, is_private=True)  # as the log is


def _format_summary(summary: Summary, recomposer: Recomposer | None) -> str:
    lines = [
        f"decisions        {summary.num_decisions}",
        f"rewards changed  {summary.num_changed}",
        f"mean reward      {summary.mean_before:.6f} -> {summary.mean_after:.6f}",
        f"right -> wrong   {summary.num_right_to_wrong}",
        f"wrong -> right   {summary.num_wrong_to_right}",
    ]
    lines += (f"  {_format_flip(flip)}" for flip in summary.examples)
    lines += (f"{f'mean {name}':<15}  {mean:.6f}" for name, mean in summary.mean_terms.items())
    if recomposer and recomposer.composition.group_size:
        lines += _format_groups(recomposer)
    return "\n".join(lines) + "\n"


def _format_groups(recomposer: Recomposer) -> list[str]:
    size = recomposer.composition.group_size
    return [
        f"groups           {recomposer.num_groups}",
        f"incomplete       {recomposer.num_incomplete} of fewer than {size} rollouts",
        f"left out         {recomposer.num_left_out} without a sibling, so without a reward",
    ]


def _format_flip(flip: Rescored) -> str:
    before, after = flip.before, flip.after
    label = before.label if isinstance(before.label, str) else before.label.get("answer")
    return (
        f"{flip.place}: label {label!r:.60}: {before.grader} {before.reason} {before.answer!r:.60}"
        f" -> {after.grader} {after.reason} {after.answer!r:.60}"
    )
