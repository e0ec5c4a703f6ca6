"""The folder of a run: its description, its records, what of it is done, and one run at a time."""

from __future__ import annotations

import fcntl
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from eval.errors import UserError
from eval.records import (
    RUN_FILE,
    BenchmarkDescription,
    RecordWriter,
    RunDescription,
    iter_records,
    read_run,
    records_path,
)
from eval.run.config import DEFINING_FLAGS

_LOCK_FILE = ".lock"
_PACKAGES = (
    "sar-reward-server", "torch", "transformers", "tokenizers", "vllm", "openai", "datasets",
    "math-verify", "latex2sympy2_extended", "sympy", "numpy", "ftfy",
)  # fmt: skip


@dataclass
class Done:
    """What the records of a benchmark hold already."""

    keys: set[tuple[str, int]] = field(default_factory=set)
    """Samples that were graded, right or wrong; errors are asked again."""
    num_correct: int = 0


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Makes the folder, and keeps a second run out of it for as long as the context lasts.

    Raises:
        UserError: another run is writing there.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / _LOCK_FILE).open("w")
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output {output}: another run is writing there") from None
        yield


def earlier_run(output: Path, benchmarks: Iterable[str]) -> RunDescription | None:
    """The description of the run that was started here before, if there was one.

    Raises:
        UserError: there are records without a description, or it cannot be read.
    """
    if (output / RUN_FILE).exists():
        return read_run(output)
    for name in benchmarks:
        if records_path(output, name).exists():
            raise UserError(f"--output {output}: has {name}.jsonl, but no {RUN_FILE}")
    return None


def refuse_other_run(
    output: Path,
    earlier: RunDescription,
    *,
    flags: Mapping[str, Any],
    system_prompt: str,
    instruction: str,
    benchmarks: Mapping[str, BenchmarkDescription],
) -> None:
    """
    Raises:
        UserError: the run in the folder measured something else; says what differs.
    """
    different = [
        f"--{name.replace('_', '-')} was {earlier.flags.get(name)!r} and is {flags[name]!r}"
        for name in DEFINING_FLAGS
        if earlier.flags.get(name) != flags[name]
    ]
    if earlier.system_prompt != system_prompt:
        different.append("the system prompt is another")
    if earlier.instruction != instruction:
        different.append("the instruction is another")
    for name, described in benchmarks.items():
        before = earlier.benchmarks.get(name)
        if before and before.fingerprint != described.fingerprint:
            different.append(
                f"the problems of {name} are others ({before.num_problems} from {before.source}, "
                f"now {described.num_problems} from {described.source})"
            )
    _refuse(output, different)


def refuse_other_prompts(output: Path, earlier: RunDescription, now: RunDescription) -> None:
    """
    Raises:
        UserError: the model would be given other prompts than in the run in the folder.
    """
    different = []
    if earlier.chat_template != now.chat_template:
        different.append("the chat template is another")
    elif earlier.prompts_fingerprint != now.prompts_fingerprint:
        different.append("the prompts are others")
    _refuse(output, different)


def changed_versions(earlier: RunDescription, now: RunDescription) -> list[str]:
    """Packages that are not what they were when the run was started, for a warning."""
    return [
        f"{name} {earlier.versions.get(name, 'absent')} -> {now.versions.get(name, 'absent')}"
        for name in sorted({*earlier.versions, *now.versions})
        if earlier.versions.get(name) != now.versions.get(name)
    ]


def read_done(output: Path, benchmark: str) -> Done:
    """What is done of a benchmark; the last record of a sample counts.

    Raises:
        UserError: its file holds a line that is no record.
    """
    path = records_path(output, benchmark)
    if not path.exists():
        return Done()
    verdicts = {record.key: record.correct for record in iter_records(path)}
    return Done(
        keys={key for key, correct in verdicts.items() if correct is not None},
        num_correct=sum(correct is True for correct in verdicts.values()),
    )


@contextmanager
def record_writers(output: Path, benchmarks: Iterable[str]) -> Iterator[dict[str, RecordWriter]]:
    """A writer for each benchmark, open for as long as the context lasts."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(closing(RecordWriter(records_path(output, name))))
            for name in benchmarks
        }


def versions() -> dict[str, str]:
    """Python, the platform, and the packages that are installed of those that take part."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _refuse(output: Path, different: list[str]) -> None:
    if different:
        raise UserError(
            f"--output {output}: holds another run: {'; '.join(different)}; choose another folder"
        )
