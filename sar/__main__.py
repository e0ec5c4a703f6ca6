"""python -m sar audit|explain|grade|probe|rescore|terms|view

Grades responses and says why each is right or wrong, and shows a response token by token. Reads a
server's reward log: computes its rewards again, watches it for alarms, shows it in the browser.
Lists the terms that a reward can have, and tries what a reward pays for without solving.
Each command has its own --help.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sar.arguments import CommandParser

_COMMANDS = {
    "audit": "watch a reward log for alarms, such as a collapse of length",
    "explain": "show what the question explains of a response, token by token, in an HTML file",
    "grade": "grade a response, or a file of them, and say why each is right or wrong",
    "probe": "attack a reward: show what ways to earn without solving are paid",
    "rescore": "compute the rewards in a reward log again, with another SAR weight or grader",
    "terms": "list the terms that a reward can be composed of, or check a reward file",
    "view": "show a reward log in the browser: charts, tables, and every rollout",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    parser = CommandParser(
        prog="python -m sar",
        description=__doc__.split("\n\n")[1] if __doc__ else None,
        usage="%(prog)s {" + ",".join(_COMMANDS) + "} ...",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        # The command parses its own arguments. Only its module is loaded, so --help is fast.
        commands.add_parser(name, help=text, add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser.parse_args(arguments[:1])
    command = import_module(f"sar.commands.{arguments[0]}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Responses have characters that not every terminal's encoding has.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status: int = command.main(arguments[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the output's reader is gone, as in `python -m sar grade ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
