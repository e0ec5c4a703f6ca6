"""python -m eval run|compare|contamination|list

Measures a model on the benchmarks, compares runs, and looks for their problems in training data.
Each command has a `--help` of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

_COMMANDS = {
    "run": "ask a model the problems of benchmarks, and grade and record its responses",
    "compare": "compare runs over the same problems, with intervals and tests",
    "contamination": "look for the benchmarks' problems in a training file",
    "list": "the benchmarks: where they come from and what they hold",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m eval",
        description=__doc__.split("\n\n")[1] if __doc__ else None,
        usage="%(prog)s {" + ",".join(_COMMANDS) + "} ...",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        # The rest is the command's own to parse; its module is loaded only if it is the one.
        commands.add_parser(name, help=text, add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser.parse_args(arguments[:1])
    command = import_module(f"eval.{arguments[0]}.command")
    try:
        code: int = command.main(arguments[1:])
    except BrokenPipeError:  # the reader of the output has gone: `python -m eval list | head`
        sys.stderr.close()
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
