"""The files of a run. `python -m eval run` writes them; every other command reads them.

OUTPUT/<benchmark>.jsonl   one `Record` per sample, appended when the sample is graded
OUTPUT/run.json            `RunDescription`: everything needed to repeat the run
OUTPUT/summary.json        metrics per benchmark and averaged; see `eval.statistics.metrics`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from eval.errors import UserError
from sar.errors import first_line, quote
from sar.files import write_atomically

RUN_FILE = "run.json"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, slots=True)
class Record:
    """One sample of one problem.

    If the backend or the grader failed, `error` is set and `correct` is None. That is not a wrong
    answer: the next start of the run asks for the sample again.
    """

    id: str
    sample: int
    """0..n-1"""
    question: str
    prompt: str
    """The prompt, chat template applied."""
    response: str | None
    label: str
    correct: bool | None
    reason: str | None
    """Value of `sar.grading.verdict.Reason`."""
    answer: str | None
    """What the grader extracted."""
    num_tokens: int | None
    """Tokens of the response, including end of sequence if the model wrote it."""
    finish_reason: str | None
    """"stop", or "length" if the response was truncated at its maximum."""
    seed: int | None
    error: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.sample


@dataclass(frozen=True)
class BenchmarkDescription:
    """The problems of a benchmark: which they are and where they came from."""

    fingerprint: str
    """sha256 of ids, questions and labels, in order."""
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
    """Of Python, the platform and the packages that affect results."""
    chat_template: dict[str, str | None]
    """"text" and "sha256"; both null if the model has none or the server applies it."""
    prompt_style: str
    system_prompt: str
    instruction: str
    generation: dict[str, Any]
    """temperature, top_p, max_tokens, n, seed"""
    benchmarks: dict[str, BenchmarkDescription]
    prompts_fingerprint: str
    """sha256 of all prompts, chat template applied."""
    started_at: str
    """ISO 8601, UTC."""
    model_details: dict[str, Any] = field(default_factory=dict)
    """For information, from the backend: class, dtype, device, revision, ..."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `asdict`.

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
    """Reads run.json.

    Raises:
        UserError: the file is missing or broken.
    """
    path = output / RUN_FILE
    try:
        return RunDescription.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{output}: no run here ({RUN_FILE} is missing)") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: {first_line(error)}") from error


def write_json(path: Path, values: Any) -> None:
    """Writes the whole file or nothing."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def iter_records(path: Path) -> Iterator[Record]:
    """Yields the records of a file as written. A sample that was repeated after an error is there
    more than once; the last record counts. An incomplete last line is skipped.

    Raises:
        UserError: a complete line is not a record; names file and line.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return  # the run was killed while it wrote this line
            try:
                values = json.loads(line)
                _check_fields(Record, values)
                yield Record(**values)
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: {first_line(error)}") from error


_RECORD_FIELDS = tuple(f.name for f in fields(Record))


class RecordWriter:
    """Appends records to a file, unbuffered. Removes an incomplete last line first."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        _remove_incomplete_line(self._file)

    def write(self, record: Record) -> None:
        # `asdict` copies deeply and takes ten times as long.
        values = {name: getattr(record, name) for name in _RECORD_FIELDS}
        line = json.dumps(values, ensure_ascii=False) + "\n"
        # A lone surrogate in a broken response is written as an escape, which is valid UTF-8.
        self._file.write(line.encode("utf-8", "backslashreplace"))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _remove_incomplete_line(file: Any) -> None:
    """Truncates a file after its last line break."""
    file.seek(0)
    file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))


def _check_fields(kind: Any, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"expected an object, found {type(values).__name__}")
    wanted = {f.name for f in fields(kind)}
    missing, unknown = wanted - values.keys(), values.keys() - wanted
    if missing or unknown:
        names = ", ".join(map(quote, sorted(missing or unknown)))
        raise ValueError(f"{'missing' if missing else 'unknown'} field {names}")
