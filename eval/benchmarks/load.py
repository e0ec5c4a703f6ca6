"""Loads the problems of a benchmark from the Hugging Face hub or from a --data-dir."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.rows import Row, RowError, read_jsonl_rows
from eval.records import BenchmarkDescription


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark with its problems."""

    benchmark: Benchmark
    problems: list[Problem]
    origin: str
    """"hub", "built in", or the file or folder the rows were read from."""

    @property
    def description(self) -> BenchmarkDescription:
        return BenchmarkDescription(
            fingerprint=compute_fingerprint(self.problems),
            num_problems=len(self.problems),
            **asdict(self.benchmark.source),
            source=self.origin,
        )


def load_problems(
    benchmark: Benchmark, data_dir: Path | None = None, limit: int | None = None
) -> LoadedBenchmark:
    """Loads and prepares a benchmark's problems.

    Args:
        data_dir: folder with the benchmark's file; None reads the hub.
        limit: maximum number of problems; the first ones are taken.
    Raises:
        RowError: a row does not fit the schema, two problems have the same id, or there are none.
    """
    rows, origin = _open_rows(benchmark, data_dir)
    problems = list(islice(benchmark.prepare(rows), limit))
    if not problems:
        raise RowError(f"{benchmark.name}: no problem in {origin}")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise RowError(f"{benchmark.name}: two problems in {origin} have the id {problem.id!r}")
        seen.add(problem.id)
    return LoadedBenchmark(benchmark, problems, origin)


def compute_fingerprint(problems: Sequence[Problem]) -> str:
    """sha256 of all ids, questions and labels in order: equal for equal data."""
    digest = hashlib.sha256()
    for problem in problems:
        label = problem.label
        parts = [problem.id, problem.question, label.grader, label.answer, *label.choices]
        digest.update(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _open_rows(benchmark: Benchmark, data_dir: Path | None) -> tuple[Iterator[Row], str]:
    if benchmark.is_built_in or data_dir is None:
        rows = benchmark.read_source(benchmark.source, benchmark.columns)
        return rows, "built in" if benchmark.is_built_in else "hub"
    path = data_dir / benchmark.file
    if path.is_file():
        return read_jsonl_rows(path), str(path)
    if benchmark.read_folder and (found := benchmark.read_folder(data_dir)):
        return found, str(data_dir)
    raise RowError(
        f"{benchmark.name}: no file {path}; it should hold the rows of {benchmark.source.url}"
    )
