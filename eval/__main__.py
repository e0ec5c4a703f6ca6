"""python -m eval run|compare|contamination|evidence|list

Evaluates a model on benchmarks, compares runs, and searches training data for benchmark problems;
shows what SAR pays a model's responses.
Each command has its own --help.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from sar.arguments import CommandParser

_COMMANDS = {
    "run": "ask a model the problems of benchmarks, grade its responses and record them",
    "compare": "compare runs over the same problems, with intervals and tests",
    "contamination": "find benchmark problems in a training file",
    "evidence": "show what SAR pays a model's responses, and changed copies of them",
    "list": "show the benchmarks, their sources and licences",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = CommandParser(
        prog="python -m eval",
        description=__doc__.split("\n\n")[1] if __doc__ else None,
        usage="%(prog)s {" + ",".join(_COMMANDS) + "} ...",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        # The command parses its own arguments. Only its module is loaded, so --help is fast.
        commands.add_parser(name, help=text, add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser.parse_args(arguments[:1])
    command = import_module(f"eval.{arguments[0]}.command")
    try:
        code: int = command.main(arguments[1:])
    except BrokenPipeError:  # the output's reader is gone, as in `python -m eval list | head`
        sys.stderr.close()
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
