r"""Grades a response, or a file of them, and says why each is right or wrong.

python -m sar grade 'It is \boxed{0.75}.' --label '3/4' --explain
python -m sar grade --file rows.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from sar.arguments import CommandParser
from sar.commands.grader_options import add_grader_options
from sar.errors import one_line
from sar.grading.label import GraderName, LabelError, parse_label

_RESPONSE_OPTIONS = ("label", "explain")
_FILE_OPTIONS = ("response_key", "label_key", "expected_key", "output")
_EPILOG = r"""
A response or label that starts with a minus sign:
  python -m sar grade --label=-1/2 -- '-0.5'

verdict, one of:
  correct, wrong
  no_answer   the response states no answer
  unreadable  the answer differs from a label that is not readable as mathematics
              and was compared as plain text; it counts as wrong
  timeout     grading took longer than --grader-timeout; it counts as wrong
  crashed     the response crashed the grader; it counts as wrong

exit status:
  of a response  0 correct; 1 any other verdict
  of a file      0 all rows were graded; 1 a verdict is not the expected one
  of both        2 a wrong option, a label or row that cannot be graded, an unreadable file
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    try:
        return _grade_file(arguments) if arguments.file else _grade_response(parser, arguments)
    except BrokenPipeError:
        raise
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sar grade",
        usage="%(prog)s RESPONSE --label LABEL [options]\n       %(prog)s --file FILE [options]",
        description=(
            "Grades a response, or a file of them, as the server does, and says why each is\n"
            "right or wrong. No model is needed."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--grader",
        choices=get_args(GraderName),
        help="grade with this grader, whatever the label asks",
    )
    add_grader_options(parser)
    _add_response_options(parser)
    _add_file_options(parser)
    return parser


def _add_response_options(parser: argparse.ArgumentParser) -> None:
    one = parser.add_argument_group("one response")
    one.add_argument(
        "response",
        metavar="RESPONSE",
        nargs="?",
        help="the response's text; - reads standard input. If the prompt opened the thinking, put "
        "<think> in front",
    )
    one.add_argument(
        "--label",
        help='the label as the server takes it: "72" or {"answer": "B", "choices": [...]}',
    )
    one.add_argument(
        "--explain",
        action="store_true",
        help="also print who chose the grader, how label and answer were read, and the text around "
        "the answer",
    )


def _add_file_options(parser: argparse.ArgumentParser) -> None:
    many = parser.add_argument_group("a file of responses")
    many.add_argument(
        "--file",
        type=Path,
        metavar="FILE.jsonl",
        help='a JSON object a line: {"response": ..., "label": ...}; a reward log will do',
    )
    many.add_argument(
        "--response-key", metavar="KEY", help="field of the response (default: response)"
    )
    many.add_argument("--label-key", metavar="KEY", help="field of the label (default: label)")
    many.add_argument(
        "--expected-key",
        metavar="KEY",
        help="field with 1 or true if the response is known to be correct, 0 or false if it is "
        "wrong; the summary lists the verdicts that disagree",
    )
    many.add_argument(
        "--output", type=Path, metavar="FILE.jsonl", help="write the whole verdicts to this file"
    )


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses options that do not go together."""
    if (arguments.file is None) == (arguments.response is None):
        parser.error("give either a RESPONSE or --file")
    if not arguments.file and arguments.label is None:
        parser.error("--label is missing: the right answer, to grade RESPONSE against")
    for name in _RESPONSE_OPTIONS if arguments.file else _FILE_OPTIONS:
        if getattr(arguments, name):
            needs = "RESPONSE" if arguments.file else "--file"
            parser.error(f"--{name.replace('_', '-')} needs {needs}")
    if arguments.output and arguments.output.resolve() == arguments.file.resolve():
        parser.error(f"--output {arguments.output}: would replace the file that is graded")


def _grade_response(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    try:
        label = parse_label(arguments.label, arguments.grader)
    except LabelError as error:
        parser.error(f"--label: {error}")
    response = arguments.response
    if response == "-":
        response = sys.stdin.buffer.read().decode("utf-8", "replace")

    from sar.commands.grade_response import grade_response

    return grade_response(response, label, arguments)


def _grade_file(arguments: argparse.Namespace) -> int:
    from sar.commands.grade_file import grade_file
    from sar.commands.grade_rows import Keys

    keys = Keys(
        response=arguments.response_key or Keys.response,
        label=arguments.label_key or Keys.label,
        expected=arguments.expected_key,
    )
    return grade_file(arguments.file, keys, arguments)
