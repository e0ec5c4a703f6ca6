"""The benchmarks, and `load_problems`. A new benchmark is one file here and one line below.

`all` keeps this order. It leaves out `demo`, which is not one of the paper's seven.
"""

from __future__ import annotations

from eval.benchmarks import aime, demo, gsm8k, gsm_symbolic, logicbench, math, numinamath, prontoqa
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
    """The benchmarks of a list such as `gsm8k,math` or `all`, in the given order.

    Raises:
        UserError: a benchmark does not exist, or the list is empty.
    """
    wanted: list[str] = []
    for name in filter(None, map(str.strip, names.split(","))):
        wanted += (
            [b.name for b in BENCHMARKS.values() if not b.is_built_in] if name == "all" else [name]
        )
    if unknown := [name for name in wanted if name not in BENCHMARKS]:
        raise UserError(f"no benchmark {unknown[0]!r}; choose from all, {', '.join(BENCHMARKS)}")
    if not wanted:
        raise UserError(f"no benchmark is named; choose from all, {', '.join(BENCHMARKS)}")
    return [BENCHMARKS[name] for name in dict.fromkeys(wanted)]
