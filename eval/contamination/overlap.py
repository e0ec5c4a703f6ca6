"""Which problems of the benchmarks stand in a training file.

Every text of a row is searched: of a JSON object all strings, however deep (prompt, question,
problem, messages, solutions, ...), each by itself, so that no n-gram spans two of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.benchmarks import Problem
from sar.contamination import NGRAM_WORDS, ContaminationIndex, Match


@dataclass(frozen=True)
class ContaminatedProblem:
    """A problem and the first row that holds it; one that holds all of it before one that shares
    an n-gram."""

    benchmark: str
    id: str
    question: str
    whole: bool
    """The row holds the whole question, its words compared without case and punctuation."""
    ngram: str
    """The first words shared."""
    line: int
    """Line of the training file, from 1."""
    field: str
    """Where in the row, such as `messages.0.content`."""
    num_lines: int
    """Lines that share an n-gram with it."""


@dataclass
class _Found:
    match: Match
    line: int
    field: str
    last_line: int
    num_lines: int = 1


class ContaminationSearch:
    """Problems that training rows are held against, one row at a time."""

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
        """Looks for all problems in one row, any JSON value."""
        for field, text in iter_texts(row):
            for match in self._index.matches(text):
                found = self._found.get(match.question)
                if found is None:
                    self._found[match.question] = _Found(match, line, field, line)
                    continue
                if found.last_line != line:
                    found.last_line = line
                    found.num_lines += 1
                if match.whole and not found.match.whole:
                    found.match, found.line, found.field = match, line, field

    def list_problems(self) -> list[ContaminatedProblem]:
        """What was found so far, in the problems' order."""
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
    """Every string of a JSON value with its place in it."""
    if isinstance(row, str):
        yield path, row
    elif isinstance(row, Mapping):
        for key, value in row.items():
            yield from iter_texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(row, list):
        for index, value in enumerate(row):
            yield from iter_texts(value, f"{path}.{index}" if path else str(index))


def iter_training_rows(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Line number from 1, size of the line in bytes, and the row, of a file of JSON lines; empty
    lines are passed over.

    Raises:
        ValueError: a line is not JSON; names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({error}); one JSON value a line is needed"
                ) from None
            yield number, len(line), row
