"""python -m eval list: the benchmarks, where they come from, and under which licence."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from eval.benchmarks import BENCHMARKS, Benchmark


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m eval list", description="The benchmarks and where they come from."
    )
    parser.parse_args(argv)
    print("\n\n".join(map(described, BENCHMARKS.values())))
    return 0


def described(benchmark: Benchmark) -> str:
    """A paragraph on one benchmark."""
    source = benchmark.source
    if benchmark.is_built_in:
        lines = ["made here; not one of the seven of `--benchmarks all`"]
    else:
        lines = [
            f"{source.url}, {source.config}, {source.split}",
            f"revision {source.revision}; in a --data-dir: {benchmark.file}",
        ]
    lines.append(f"{benchmark.licence}; {benchmark.citation}")
    return "\n".join(
        [f"{benchmark.name:<14}{benchmark.description}", *(f"{'':<14}{x}" for x in lines)]
    )
