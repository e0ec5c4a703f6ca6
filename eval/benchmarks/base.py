"""What a benchmark is: where its rows come from, and how they become problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.benchmarks.rows import HubSource, Row, read_hub_rows
from sar.grading.label import Label


@dataclass(frozen=True)
class Problem:
    """One question and its label. `id` is unique in its benchmark and stays the same."""

    id: str
    question: str
    """Without an instruction, which the prompt style adds."""
    label: Label


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. Its file in this folder makes one of these, and the registry lists it."""

    name: str
    description: str
    """A few words for `python -m eval list`."""
    source: HubSource
    columns: tuple[str, ...]
    """The columns that `prepare` reads."""
    file: str
    """The name of its file in a --data-dir, one JSON object a line in the hub's columns."""
    licence: str
    citation: str
    joiner: str
    """What the paper puts between the question and the instruction."""
    prepare: Callable[[Iterable[Row]], Iterator[Problem]]
    read_hub: Callable[[HubSource, tuple[str, ...]], Iterator[Row]] = read_hub_rows
    read_folder: Callable[[Path], Iterator[Row] | None] | None = None
    """Reads a --data-dir of another layout than one file; None if it has no such layout."""
    is_built_in: bool = False
    """Made here: neither the hub nor a --data-dir is read, and `all` leaves it out."""
