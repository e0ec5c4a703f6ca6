"""The folder of a run: its lock, which samples are done, and whether it may be resumed."""

from __future__ import annotations

import fcntl
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

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
from eval.run.config import FIXED_SETTINGS, RunConfig
from eval.run.prompts import PromptStyle

_LOCK_FILE = ".lock"
_PACKAGES = (
    "sar-reward-server", "torch", "transformers", "tokenizers", "vllm", "openai", "datasets",
    "math-verify", "latex2sympy2_extended", "sympy", "numpy", "ftfy",
)  # fmt: skip


@dataclass
class GradedSamples:
    """The samples of one benchmark that are already graded."""

    keys: set[tuple[str, int]] = field(default_factory=set)
    """(problem id, sample) of graded samples. Errors are not among them."""
    num_correct: int = 0


@contextmanager
def lock_run(output: Path) -> Iterator[None]:
    """Creates the folder and locks it for the duration of the block.

    Raises:
        UserError: the folder cannot be created, or another run has locked it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / _LOCK_FILE).open("w")
    except FileExistsError as error:
        raise UserError(f"--output {output}: is a file, not a folder") from error
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output {output}: another run is writing there") from None
        yield


def read_earlier_run(output: Path, benchmarks: Iterable[str]) -> RunDescription | None:
    """Reads the description of the run that the folder already holds; None if it holds none.

    Raises:
        UserError: run.json is broken, or it is missing beside records.
    """
    if (output / RUN_FILE).exists():
        return read_run(output)
    for name in benchmarks:
        if records_path(output, name).exists():
            raise UserError(f"--output {output}: has {name}.jsonl, but no {RUN_FILE}")
    return None


def refuse_other_run(
    config: RunConfig,
    earlier: RunDescription,
    style: PromptStyle,
    benchmarks: Mapping[str, BenchmarkDescription],
) -> None:
    """Checks that the run in the folder measures the same as this one.

    Args:
        earlier: the run in the folder. All other arguments belong to this run.
    Raises:
        UserError: it does not; the message lists the differences.
    """
    flags = config.to_json()
    different = [
        f"--{name.replace('_', '-')} was {earlier.flags.get(name)!r} and is {flags[name]!r}"
        for name in FIXED_SETTINGS
        if earlier.flags.get(name) != flags[name]
    ]
    if earlier.system_prompt != style.system_prompt:
        different.append("the system prompt differs")
    if earlier.instruction != style.instruction:
        different.append("the instruction differs")
    for name, described in benchmarks.items():
        before = earlier.benchmarks.get(name)
        if before and before.fingerprint != described.fingerprint:
            different.append(
                f"the problems of {name} differ ({before.num_problems} from {before.source}, "
                f"now {described.num_problems} from {described.source})"
            )
    _raise_if_different(config.output, different)


def refuse_other_prompts(output: Path, earlier: RunDescription, now: RunDescription) -> None:
    """Checks that both runs give the model the same prompts.

    Raises:
        UserError: they do not.
    """
    different = []
    if earlier.chat_template != now.chat_template:
        different.append("the chat template differs")
    elif earlier.prompts_fingerprint != now.prompts_fingerprint:
        different.append("the prompts differ")
    _raise_if_different(output, different)


def find_changed_versions(earlier: RunDescription, now: RunDescription) -> list[str]:
    """Package versions that changed since the run was started, as `name old -> new`."""
    return [
        f"{name} {earlier.versions.get(name, 'absent')} -> {now.versions.get(name, 'absent')}"
        for name in sorted({*earlier.versions, *now.versions})
        if earlier.versions.get(name) != now.versions.get(name)
    ]


def read_graded(output: Path, benchmark: str) -> GradedSamples:
    """Reads which samples of a benchmark are graded. Of several records of one, the last counts.

    Raises:
        UserError: a line of the file is not a record.
    """
    path = records_path(output, benchmark)
    if not path.exists():
        return GradedSamples()
    verdicts = {record.key: record.correct for record in iter_records(path)}
    return GradedSamples(
        keys={key for key, correct in verdicts.items() if correct is not None},
        num_correct=sum(correct is True for correct in verdicts.values()),
    )


@contextmanager
def open_writers(output: Path, benchmarks: Iterable[str]) -> Iterator[dict[str, RecordWriter]]:
    """Opens a record writer for each benchmark, and closes them after the block."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(closing(RecordWriter(records_path(output, name))))
            for name in benchmarks
        }


def collect_versions() -> dict[str, str]:
    """Versions of Python, the platform, and those of `_PACKAGES` that are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _raise_if_different(output: Path, different: list[str]) -> None:
    if different:
        raise UserError(
            f"--output {output}: holds another run: {'; '.join(different)}; choose another folder"
        )
