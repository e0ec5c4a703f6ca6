"""python -m performance [--quick] [--only scoring,growth,serving,evaluation] [--output FILE.json]

Prints a table and keeps it as JSON, the picture of the growth beside it; fails if a bound is
missed. Every figure is a ratio of things measured in turn in the same run, but for those of
`evaluation`, which are seconds and bytes.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import replace
from pathlib import Path

from performance.report import RESULTS, Measurement, save, table

# Modules of this package with `measure(quick: bool) -> list[Measurement]`.
PARTS = "scoring", "growth", "serving", "evaluation"


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    return parts


def main(argv: list[str] | None = None) -> int:
    """The exit code: 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m performance", description="Measures speed.")
    parser.add_argument(
        "--quick", action="store_true", help="tiny, to see that it runs: no bounds, no meaning"
    )
    parser.add_argument("--only", type=_parts, default=list(PARTS), metavar="PART,...")
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file; default: performance/results/cpu.json for a whole run, none for others",
    )
    arguments = parser.parse_args(argv)
    output: Path | None = arguments.output
    if output is None and not arguments.quick and set(arguments.only) == set(PARTS):
        output = RESULTS / "cpu.json"

    started = time.monotonic()
    # First of all, so that a part that cannot be imported fails now and not in minutes.
    modules = {part: importlib.import_module(f"performance.{part}") for part in arguments.only}
    measurements: list[Measurement] = []
    for part, module in modules.items():
        measured: list[Measurement] = module.measure(arguments.quick)
        if arguments.quick:
            measured = [replace(m, at_least=None, at_most=None) for m in measured]
        measurements += measured
        if part == "growth" and output:
            module.draw(measured, output.parent / "growth.png")
    duration_s = time.monotonic() - started
    print(f"\n{table(measurements)}\n\n{duration_s:.0f} s", flush=True)
    if output:
        save(
            output,
            measurements,
            parts=arguments.only,
            quick=arguments.quick,
            duration_s=round(duration_s),
        )
        print(f"saved to {output}")
    return 0 if all(m.is_reached for m in measurements) else 1


if __name__ == "__main__":
    sys.exit(main())
