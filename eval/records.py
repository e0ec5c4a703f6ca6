"""What a run writes and everything else reads: records, one JSON object per line, and the run's
description. This file is the format.

OUTPUT/<benchmark>.jsonl   one `Record` per sample, appended as the sample finishes
OUTPUT/run.json            `RunDescription`: everything needed to repeat the run
OUTPUT/summary.json        metrics per benchmark and averaged; see `eval.statistics.metrics`
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from eval.errors import UserError
from sar.files import write_atomically

RUN_FILE = "run.json"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, slots=True)
class Record:
    """One sample of one problem.

    An error of the backend or of the grading has `error` set and `correct` None: it is no wrong
    answer, and is asked again by the next start of the run.
    """

    id: str
    sample: int
    """0..n-1"""
    question: str
    prompt: str
    """What the model was given, chat template applied."""
    response: str | None
    label: str
    correct: bool | None
    reason: str | None
    """Value of `sar.grading.verdict.Reason`."""
    answer: str | None
    """What the grader extracted."""
    num_tokens: int | None
    """Tokens of the response, end of sequence included where the model wrote it."""
    finish_reason: str | None
    """"stop", or "length" where the response was cut at its maximum."""
    seed: int | None
    error: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.sample


@dataclass(frozen=True)
class BenchmarkDescription:
    """What was measured: where the problems came from and which they are."""

    fingerprint: str
    """sha256 over ids, questions and labels, in order."""
    num_problems: int
    hub_id: str
    config: str
    split: str
    revision: str
    source: str
    """"hub", or the file the problems were read from."""


@dataclass(frozen=True)
class RunDescription:
    """Contents of run.json."""

    model: str
    backend: str
    flags: dict[str, Any]
    """Every flag of `python -m eval run` with its value."""
    versions: dict[str, str]
    """python, platform, and the packages that took part."""
    chat_template: dict[str, str | None]
    """"text" and "sha256"; both null where the model has none or a server applies it unseen."""
    prompt_style: str
    system_prompt: str
    instruction: str
    generation: dict[str, Any]
    """temperature, top_p, max_tokens, n, seed"""
    benchmarks: dict[str, BenchmarkDescription]
    prompts_fingerprint: str
    """sha256 over all prompts as given to the model."""
    started_at: str
    """ISO 8601, UTC."""
    model_details: dict[str, Any] = field(default_factory=dict)
    """What the backend found: class, dtype, device, revision; informative."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """
        Raises:
            ValueError: a field is missing or unknown.
        """
        _check_fields(cls, values)
        benchmarks = {}
        for name, described in values["benchmarks"].items():
            _check_fields(BenchmarkDescription, described)
            benchmarks[name] = BenchmarkDescription(**described)
        return cls(**{**values, "benchmarks": benchmarks})


def records_path(output: Path, benchmark: str) -> Path:
    return output / f"{benchmark}.jsonl"


def read_run(output: Path) -> RunDescription:
    """
    Raises:
        UserError: the folder holds no run, or its run.json is not one; in one line.
    """
    path = output / RUN_FILE
    try:
        return RunDescription.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{output}: no run here ({RUN_FILE} is missing)") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from error


def write_json(path: Path, values: Any) -> None:
    """Writes the file whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def iter_records(path: Path) -> Iterator[Record]:
    """All records of a file as written, one at a time: a sample that was asked again comes twice.

    Raises:
        UserError: a line is not a record (a torn last line is passed over); names file and line.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return  # the run was killed while it wrote this
            try:
                yield parse_record(line)
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}, line {number}: {error}") from error


def parse_record(line: bytes | str) -> Record:
    """
    Raises:
        ValueError: not JSON, or not the fields of a record.
    """
    values = json.loads(line)
    _check_fields(Record, values)
    return Record(**values)


class RecordWriter:
    """Appends records to a file, each handed to the system at once. A torn last line is cut off."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        _cut_torn_line(self._file)

    def write(self, record: Record) -> None:
        line = json.dumps(_as_dict(record), ensure_ascii=False) + "\n"
        # Lone surrogates of a broken response are kept: as an escape they are valid UTF-8.
        self._file.write(line.encode("utf-8", "backslashreplace"))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _cut_torn_line(file: Any) -> None:
    """Cuts what follows the last line break of a file open for reading and appending."""
    end = file.seek(0, os.SEEK_END)
    start = end
    while start > 0:
        start = max(0, start - 2**16)
        file.seek(start)
        found = file.read(min(2**16, end - start)).rfind(b"\n")
        if found >= 0:
            file.truncate(start + found + 1)
            return
    file.truncate(0)


def _as_dict(record: Record) -> dict[str, Any]:
    # `asdict` copies deeply, at ten times the cost.
    return {name: getattr(record, name) for name in _RECORD_FIELDS}


_RECORD_FIELDS = tuple(f.name for f in fields(Record))


def _check_fields(kind: Any, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"expected an object, found {type(values).__name__}")
    wanted = {f.name for f in fields(kind)}
    complaints: Sequence[tuple[str, Iterable[str]]] = (
        ("missing", wanted - values.keys()),
        ("unknown", values.keys() - wanted),
    )
    for complaint, names in complaints:
        if names:
            raise ValueError(f"{complaint} field {', '.join(map(repr, sorted(names)))}")
