"""Finds the benchmark problems that a training file contains.

All strings of a row are searched, however deep in its JSON (prompt, question, problem, messages,
solutions, ...). Each string is searched separately, so that no n-gram spans two of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.benchmarks import Problem
from sar.contamination import NGRAM_WORDS, ContaminationIndex, Match
from sar.errors import first_line


@dataclass(frozen=True)
class ContaminatedProblem:
    """A problem, and the first row that contains all of it; without one, the first row that shares
    an n-gram with it."""

    benchmark: str
    id: str
    question: str
    whole: bool
    """True if the row has the whole question, ignoring case and punctuation."""
    ngram: str
    """The first n-gram that they share."""
    line: int
    """Line number in the training file, from 1."""
    field: str
    """Place in the row, such as `messages.0.content`."""
    num_lines: int
    """Number of lines that share an n-gram with it."""


@dataclass
class _Found:
    match: Match
    line: int
    field: str
    last_line: int = 0
    num_lines: int = 0


class ContaminationSearch:
    """Searches training rows for problems, one row at a time."""

    def __init__(self, problems: Mapping[str, Sequence[Problem]], n: int = NGRAM_WORDS) -> None:
        """
        Args:
            problems: by benchmark.
            n: words in an n-gram.
        """
        self._problems = [(name, p) for name, of_one in problems.items() for p in of_one]
        self._index = ContaminationIndex((p.question for _, p in self._problems), n)
        self._found: dict[int, _Found] = {}

    def add(self, line: int, row: Any) -> None:
        """Searches one row for all problems.

        Args:
            line: its line number, from 1. Lines must come in order.
            row: any JSON value.
        """
        for field, text in iter_texts(row):
            for match in self._index.find_matches(text):
                found = self._found.setdefault(match.question, _Found(match, line, field))
                if found.last_line != line:
                    found.last_line = line
                    found.num_lines += 1
                if match.whole and not found.match.whole:
                    found.match, found.line, found.field = match, line, field

    def list_problems(self) -> list[ContaminatedProblem]:
        """The problems found so far, in the order of the benchmarks."""
        listed = []
        for index, found in sorted(self._found.items()):
            benchmark, problem = self._problems[index]
            listed.append(
                ContaminatedProblem(
                    benchmark=benchmark,
                    id=problem.id,
                    question=problem.question,
                    whole=found.match.whole,
                    ngram=" ".join(found.match.ngram),
                    line=found.line,
                    field=found.field,
                    num_lines=found.num_lines,
                )
            )
        return listed


def iter_texts(row: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields (place, string) for every string of a JSON value."""
    if isinstance(row, str):
        yield path, row
    elif isinstance(row, Mapping):
        for key, value in row.items():
            yield from iter_texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(row, list):
        for index, value in enumerate(row):
            yield from iter_texts(value, f"{path}.{index}" if path else str(index))


def iter_training_rows(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Yields (line number from 1, bytes of the line, row) of JSON lines. Skips empty lines.

    Raises:
        ValueError: a line is not JSON; names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({first_line(error)}); each line "
                    "must be one JSON value"
                ) from None
            yield number, len(line), row
