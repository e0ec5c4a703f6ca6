"""python -m performance.scaling [TABLE...] [--results FILE.json] [--update docs/scaling.md]

Makes the tables of docs/scaling.md from what `python -m performance --only scaling` measured, some
with a simulation that takes a minute. Needs no Ray.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from performance.scaling.costs import DEFAULT_RESULTS, Measured
from performance.scaling.tables import COMMAND, TABLES
from sar.pages import check_page, update_page


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for the user's mistake."""
    arguments = _make_parser().parse_args(argv)
    names: list[str] = arguments.tables or list(TABLES)
    try:
        if unknown := [name for name in names if name not in TABLES]:
            raise ValueError(f"no table {unknown[0]!r}; tables are {', '.join(TABLES)}")
        measured = Measured.read(arguments.results)
        if arguments.update:
            for name in names:  # before the simulation
                check_page(arguments.update, COMMAND.format(name))
        for name in names:
            table = TABLES[name](measured)
            print(f"{name}\n\n{table}\n", flush=True)
            if arguments.update:
                update_page(arguments.update, COMMAND.format(name), table)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m performance.scaling",
        description="Makes the tables of docs/scaling.md from what was measured.",
    )
    parser.add_argument(
        "tables",
        nargs="*",
        metavar="TABLE",
        help=f"tables to make: {', '.join(TABLES)}; default: all",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=DEFAULT_RESULTS,
        metavar="FILE.json",
        help="what was measured; default: %(default)s",
    )
    parser.add_argument("--update", type=Path, metavar="PAGE.md", help="write them into this page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
