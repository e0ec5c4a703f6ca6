"""The benchmarks, and `load_problems`. A new one is one file here and one line below.

In `all` they come in this order; `demo` is not one of the paper's seven and is left out.
"""

from __future__ import annotations

from eval.benchmarks import (
    aime,
    demo,
    gsm8k,
    gsm_symbolic,
    logicbench,
    math,
    numinamath,
    prontoqa,
)
from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.load import LoadedBenchmark, load_problems
from eval.benchmarks.rows import RowError
from eval.errors import UserError

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        gsm8k.BENCHMARK,
        math.BENCHMARK,
        numinamath.BENCHMARK,
        gsm_symbolic.BENCHMARK,
        aime.BENCHMARK,
        prontoqa.BENCHMARK,
        logicbench.BENCHMARK,
        demo.BENCHMARK,
    )
}

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "LoadedBenchmark",
    "Problem",
    "RowError",
    "choose_benchmarks",
    "load_problems",
]


def choose_benchmarks(names: str) -> list[Benchmark]:
    """The benchmarks that `all` or names with commas between them choose, in the given order.

    Raises:
        UserError: there is no such benchmark, or none is named.
    """
    wanted: list[str] = []
    for name in filter(None, map(str.strip, names.split(","))):
        wanted += (
            [b.name for b in BENCHMARKS.values() if not b.is_built_in] if name == "all" else [name]
        )
    if unknown := [name for name in wanted if name not in BENCHMARKS]:
        raise UserError(f"no benchmark {unknown[0]!r}; there are all, {', '.join(BENCHMARKS)}")
    if not wanted:
        raise UserError(f"no benchmark is named; there are all, {', '.join(BENCHMARKS)}")
    return [BENCHMARKS[name] for name in dict.fromkeys(wanted)]
