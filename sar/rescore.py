"""Rewards of logged decisions, computed again with another weight or another grader.

The command is `python -m sar rescore`. Weights need no grading and no model: a reward is computed
from the logged verdict and NLLs by the server's own function, `sar.reward.combine`. Memory stays
flat however long the log is.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from sar.decision import Decision
from sar.grading.label import GraderName, Label, LabelError, Mode, parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Verdict

_NUM_EXAMPLES_EACH_WAY = 5
# What `was` keeps of a decision from before, in an output file.
_BEFORE = ("reward", "sar_weight", "grader", "reason", "answer", "correctness", "label_unreadable")


class RescoreError(Exception):
    """A log that cannot be rescored; the message names file and line."""


@dataclass(frozen=True)
class LoggedDecision:
    """A decision and where it stands."""

    place: str
    """`file:line`."""
    decision: Decision


@dataclass(frozen=True)
class Rescored:
    """A decision as it was logged, and as it is now."""

    place: str
    before: Decision
    after: Decision

    @property
    def has_flipped(self) -> bool:
        return self.before.correctness != self.after.correctness

    def to_json(self) -> str:
        """The decision as it is now, readable as a line of a log, with what it `was`."""
        was = {name: value for name, value in asdict(self.before).items() if name in _BEFORE}
        line = {**asdict(self.after), "was": was}
        return json.dumps(line, ensure_ascii=False, allow_nan=False)


@dataclass
class Summary:
    """What changed, counted over all decisions."""

    num_decisions: int = 0
    num_changed: int = 0
    num_right_to_wrong: int = 0
    num_wrong_to_right: int = 0
    examples: list[Rescored] = field(default_factory=list)
    """The first few flips of each kind."""
    _before: float = 0.0
    _after: float = 0.0

    def add(self, rescored: Rescored) -> None:
        before, after = rescored.before, rescored.after
        self.num_decisions += 1
        self.num_changed += before.reward != after.reward
        self._before += before.reward
        self._after += after.reward
        if rescored.has_flipped:
            self._add_flip(rescored)

    @property
    def mean_before(self) -> float:
        """Mean reward as logged; 0 of none."""
        return self._before / max(1, self.num_decisions)

    @property
    def mean_after(self) -> float:
        return self._after / max(1, self.num_decisions)

    def _add_flip(self, rescored: Rescored) -> None:
        if rescored.after.correctness:
            self.num_wrong_to_right += 1
            num_alike = self.num_wrong_to_right
        else:
            self.num_right_to_wrong += 1
            num_alike = self.num_right_to_wrong
        if num_alike <= _NUM_EXAMPLES_EACH_WAY:
            self.examples.append(rescored)


def find_log_files(paths: Sequence[Path]) -> list[Path]:
    """The files meant by paths of files and folders, those of a folder in their order of time.

    Raises:
        RescoreError: a path is not there, or a folder has no log.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found = [path] if path.is_file() else []
        else:
            found = sorted(path.glob("*.jsonl"))
        if not found:
            missing = "no .jsonl file in it" if path.is_dir() else "no such file or folder"
            raise RescoreError(f"{path}: {missing}")
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
        on_torn: hears of a last line that was not written to its end, as where a server was killed.
        on_bytes: hears of the size of each line that was read.
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
                raise RescoreError(f"{place}: not a decision: {error}") from error
            yield LoggedDecision(place, decision)


def rescore(
    log: Iterable[LoggedDecision], *, sar_weight: float | None = None
) -> Iterator[Rescored]:
    """Decisions with rewards from their logged verdicts.

    Args:
        sar_weight: in place of each decision's own.
    """
    for logged in log:
        decision = logged.decision
        yield _rescored(
            logged, decision.verdict, decision.grader, decision.mode, sar_weight=sar_weight
        )


def regrade(
    log: Iterable[LoggedDecision],
    graders: GraderPool,
    *,
    num_in_flight: int,
    grader: GraderName | None = None,
    sar_weight: float | None = None,
) -> Iterator[Rescored]:
    """Decisions with rewards from new verdicts, in order.

    Args:
        num_in_flight: decisions read ahead of the one that is waited for.
        grader: in place of the one that each label asks for.
        sar_weight: in place of each decision's own.
    Raises:
        RescoreError: a label that the grader cannot grade against, or a grader that failed.
    """
    pending: deque[tuple[LoggedDecision, Label, Future[Verdict]]] = deque()

    def finish() -> Rescored:
        logged, label, verdict = pending.popleft()
        try:
            found = verdict.result()
        except Exception as error:
            message = f"{logged.place}: a grader failed: {type(error).__name__}: {error}"
            raise RescoreError(message) from error
        return _rescored(logged, found, label.grader, label.mode, sar_weight=sar_weight)

    for logged in log:
        label = _label(logged, grader)
        pending.append((logged, label, graders.submit(logged.decision.graded_text, label)))
        if len(pending) > num_in_flight:
            yield finish()
    while pending:
        yield finish()


def write_all(rescored: Iterable[Rescored], output: TextIO | None) -> Summary:
    """Runs through all decisions, writing them where that is wanted, and sums up what changed."""
    summary = Summary()
    for one in rescored:
        summary.add(one)
        if output:
            output.write(one.to_json() + "\n")
    return summary


def _rescored(
    logged: LoggedDecision,
    verdict: Verdict,
    grader: GraderName,
    mode: Mode,
    *,
    sar_weight: float | None,
) -> Rescored:
    before = logged.decision
    weight = before.sar_weight if sar_weight is None else sar_weight
    after = before.decide_again(verdict, grader, mode, weight)
    return Rescored(logged.place, before, after)


def _label(logged: LoggedDecision, grader: GraderName | None) -> Label:
    try:
        return parse_label(logged.decision.label, grader)
    except LabelError as error:
        raise RescoreError(f"{logged.place}: {error}") from error
