"""python -m performance [--quick] [--only scoring,grading,...] [--output FILE.json]

Prints a table and saves it as JSON, with plots of `growth` and `scaling` beside it. The exit code
is 1 if a result misses its bound. `scoring` gives ratios of two times measured one after the other,
so that a machine that slows down affects both; `serving` and `evaluation` give absolute numbers.
`smollm2` measures a real model, `dashboard` what the dashboard costs, `explaining` what `/explain`
costs rewards, `viewing` how quickly a long log opens, `scaling` scorers on Ray. These run only if
named; `scaling` and `smollm2` with build/real/bin/python.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import replace
from pathlib import Path

from performance.report import RESULTS, Measurement, format_table, save

# Modules of this package with `measure(quick: bool) -> list[Measurement]`.
PARTS = "scoring", "growth", "grading", "serving", "composing", "evaluation"
# Only when named: they need more time, or more than `make bench` installs. Saved in files of their
# own.
PARTS_OF_THEIR_OWN = ("smollm2", "dashboard", "explaining", "viewing", "scaling")


def _parse_parts(text: str) -> list[str]:
    parts = text.split(",")
    known = PARTS + PARTS_OF_THEIR_OWN
    if unknown := [part for part in parts if part not in known]:
        raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}; parts are {', '.join(known)}")
    return parts


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 1 if a result misses its bound."""
    parser = argparse.ArgumentParser(
        prog="python -m performance", description="Measures speed and memory on a CPU."
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to check that it runs; ignores the bounds"
    )
    parser.add_argument(
        "--only",
        type=_parse_parts,
        default=list(PARTS),
        metavar="PART,...",
        help=f"parts to measure: {', '.join(PARTS)}; default: all of these. "
        f"Not in the default: {', '.join(PARTS_OF_THEIR_OWN)}",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file; default, for a run in full: performance/results/cpu.json for all parts, "
        "smollm2.json for smollm2 alone, else none",
    )
    arguments = parser.parse_args(argv)
    output: Path | None = arguments.output
    if output is None and not arguments.quick and set(arguments.only) == set(PARTS):
        output = RESULTS / "cpu.json"
    is_of_its_own = len(arguments.only) == 1 and arguments.only[0] in PARTS_OF_THEIR_OWN
    if output is None and not arguments.quick and is_of_its_own:
        output = RESULTS / f"{arguments.only[0]}.json"

    started = time.monotonic()
    # All imports first: a part that cannot be imported fails now, not after minutes.
    modules = {part: importlib.import_module(f"performance.{part}") for part in arguments.only}
    measurements: list[Measurement] = []
    for part, module in modules.items():
        measured: list[Measurement] = module.measure(arguments.quick)
        if arguments.quick:
            measured = [replace(m, at_least=None, at_most=None) for m in measured]
        measurements += measured
        if output and hasattr(module, "plot"):
            module.plot(measured, output.parent / f"{part}.png")
    duration_s = time.monotonic() - started
    print(f"\n{format_table(measurements)}\n\n{duration_s:.0f} s", flush=True)
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
