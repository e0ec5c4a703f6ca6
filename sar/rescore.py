"""Computes the rewards of a reward log again, with another SAR weight or another grader.

The command is `python -m sar rescore`. It needs no model: it computes a reward from the logged NLLs
with the server's own function, `sar.reward.combine`. Another weight needs no grading either, as the
verdict is logged too. Memory use does not grow with the length of the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from sar.decision import Decision
from sar.errors import first_line, one_line
from sar.grading.label import GraderName, Label, LabelError, Mode, parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Verdict
from sar.read_ahead import read_ahead

_NUM_EXAMPLES_EACH_WAY = 5
# Fields of the logged decision that an output file keeps under `was`.
_WAS = ("reward", "sar_weight", "grader", "reason", "answer", "correctness", "label_unreadable")


class RescoreError(Exception):
    """A log cannot be rescored. The message names the file, and the line if there is one."""


@dataclass(frozen=True)
class LoggedDecision:
    """A decision and its place in the log."""

    place: str
    """`file:line`."""
    decision: Decision


@dataclass(frozen=True)
class Rescored:
    """A decision as it was logged, and after its reward was computed again."""

    place: str
    before: Decision
    after: Decision

    def to_json(self) -> str:
        """The new decision as a line of a reward log, with the old values under `was`."""
        was = {name: value for name, value in asdict(self.before).items() if name in _WAS}
        line = {**asdict(self.after), "was": was}
        return json.dumps(line, ensure_ascii=False, allow_nan=False)


@dataclass
class Summary:
    """What changed, over all decisions."""

    num_decisions: int = 0
    num_changed: int = 0
    num_right_to_wrong: int = 0
    num_wrong_to_right: int = 0
    examples: list[Rescored] = field(default_factory=list)
    """The first few decisions of each kind whose correctness changed."""
    _sum_before: float = 0.0
    _sum_after: float = 0.0

    def add(self, rescored: Rescored) -> None:
        before, after = rescored.before, rescored.after
        self.num_decisions += 1
        self.num_changed += before.reward != after.reward
        self._sum_before += before.reward
        self._sum_after += after.reward
        if before.correctness > after.correctness:
            self.num_right_to_wrong += 1
            self._add_example(rescored, self.num_right_to_wrong)
        elif before.correctness < after.correctness:
            self.num_wrong_to_right += 1
            self._add_example(rescored, self.num_wrong_to_right)

    @property
    def mean_before(self) -> float:
        """Mean reward as logged; 0 if there are no decisions."""
        return self._sum_before / max(1, self.num_decisions)

    @property
    def mean_after(self) -> float:
        """Mean reward as computed again; 0 if there are no decisions."""
        return self._sum_after / max(1, self.num_decisions)

    def _add_example(self, rescored: Rescored, num_of_kind: int) -> None:
        if num_of_kind <= _NUM_EXAMPLES_EACH_WAY:
            self.examples.append(rescored)


def find_log_files(paths: Sequence[Path]) -> list[Path]:
    """The log files at these paths, each once. A folder means its .jsonl files, sorted by name.

    Raises:
        RescoreError: a path does not exist, or a folder has no .jsonl file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found, complaint = sorted(path.glob("*.jsonl")), "no .jsonl file in it"
        else:
            found, complaint = [path] * path.is_file(), "no such file or folder"
        if not found:
            raise RescoreError(f"{path}: {complaint}")
        files += (file for file in found if file not in files)
    return files


def read_log(
    file: Path,
    *,
    on_torn: Callable[[str], None],
    on_bytes: Callable[[int], object] = lambda _: None,
) -> Iterator[LoggedDecision]:
    """The decisions of one file, in order.

    Args:
        on_torn: called with the place of an incomplete last line, which is skipped. A server that
            was killed leaves one.
        on_bytes: called with the size of each line after it was read.
    Raises:
        RescoreError: any other line is not a decision.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{file}:{number}"
            on_bytes(len(line))
            try:
                decision = Decision.from_json(line.decode())
            except ValueError as error:
                if not line.endswith(b"\n"):
                    on_torn(place)
                    return
                raise RescoreError(f"{place}: not a decision: {first_line(error)}") from error
            yield LoggedDecision(place, decision)


def rescore(
    log: Iterable[LoggedDecision], *, sar_weight: float | None = None
) -> Iterator[Rescored]:
    """Computes rewards again from the logged verdicts.

    Args:
        sar_weight: weight of SAR; None: each decision's own.
    """
    for logged in log:
        decision = logged.decision
        yield _rescore_one(logged, decision.verdict, decision.grader, decision.mode, sar_weight)


def regrade(
    log: Iterable[LoggedDecision],
    graders: GraderPool,
    *,
    num_in_flight: int,
    grader: GraderName | None = None,
    sar_weight: float | None = None,
) -> Iterator[Rescored]:
    """Grades the responses again and computes rewards from the new verdicts, in order.

    Args:
        num_in_flight: how many decisions may be read ahead of the one whose verdict is next.
        grader: grades every response; None: the grader that each label asks for.
        sar_weight: weight of SAR; None: each decision's own.
    Raises:
        RescoreError: the grader cannot grade against a label, or a grader failed.
    """
    submitted = (_submit(logged, graders, grader) for logged in log)
    for logged, label, verdict in read_ahead(submitted, num_in_flight):
        try:
            found = verdict.result()
        except Exception as error:
            raise RescoreError(f"{logged.place}: a grader failed: {one_line(error)}") from error
        yield _rescore_one(logged, found, label.grader, label.mode, sar_weight)


def write_all(rescored: Iterable[Rescored], output: TextIO | None) -> Summary:
    """Writes all decisions to `output`, if there is one, and returns what changed.

    Raises:
        RescoreError: a decision cannot be written: a text has a lone surrogate, which UTF-8
            cannot encode, or a number is NaN or infinite, which JSON does not have.
    """
    summary = Summary()
    for one in rescored:
        summary.add(one)
        if output:
            try:
                output.write(one.to_json() + "\n")
            except ValueError as error:
                message = f"{one.place}: the decision cannot be written: {first_line(error)}"
                raise RescoreError(message) from error
    return summary


def _rescore_one(
    logged: LoggedDecision, verdict: Verdict, grader: GraderName, mode: Mode, weight: float | None
) -> Rescored:
    before = logged.decision
    weight = before.sar_weight if weight is None else weight
    return Rescored(logged.place, before, before.decide_again(verdict, grader, mode, weight))


def _submit(
    logged: LoggedDecision, graders: GraderPool, grader: GraderName | None
) -> tuple[LoggedDecision, Label, Future[Verdict]]:
    try:
        label = parse_label(logged.decision.label, grader)
    except LabelError as error:
        raise RescoreError(f"{logged.place}: {error}") from error
    return logged, label, graders.submit(logged.decision.graded_text, label)
