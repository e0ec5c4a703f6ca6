"""Computes the rewards of a reward log again, with another SAR weight or another grader.

The command is `python -m sar rescore`. It needs no model: it computes a reward from the logged NLLs
with the server's own function, `sar.reward.combine`. Another weight needs no grading either, as the
verdict is logged too. `sar.recompose` does the same for a reward file. Memory use does not grow
with the length of the log.

Decisions flow one by one: `read_log`, then `keep_verdicts` or `regrade`, then `reweigh` or
`recompose`, then `write_all`.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from sar.decision import Decision
from sar.errors import first_line, one_line
from sar.grading.label import GraderName, Label, LabelError, Mode, parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Verdict
from sar.read_ahead import read_ahead

_NUM_EXAMPLES_EACH_WAY = 5
_NUM_SUGGESTIONS = 3
# Fields of the logged decision that an output file keeps under `was`.
_WAS = (
    *("reward", "sar_weight", "terms"),
    *("grader", "reason", "answer", "correctness", "label_unreadable"),
)
# Rewards this near to each other are equal. The rollouts of a group may be logged in another order
# than the server summed them in.
_ROUNDING = 1e-9


class RescoreError(Exception):
    """A log cannot be rescored. The message names the file, and the line if there is one."""


@dataclass(frozen=True)
class LoggedDecision:
    """A decision and its place in the log."""

    place: str
    """`file:line`."""
    decision: Decision


@dataclass(frozen=True)
class Judged:
    """A logged decision with the verdict that its new reward comes from."""

    logged: LoggedDecision
    verdict: Verdict
    grader: GraderName
    mode: Mode


@dataclass(frozen=True)
class Rescored:
    """A decision as it was logged, and after its reward was computed again."""

    place: str
    before: Decision
    after: Decision

    def to_json(self) -> str:
        """The new decision as a line of a reward log, with the old values under `was`."""
        was = {name: value for name, value in self.before.to_fields().items() if name in _WAS}
        line = {**self.after.to_fields(), "was": was}
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
    _num_terms: Counter[str] = field(default_factory=Counter)
    _sum_terms: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, rescored: Rescored) -> None:
        before, after = rescored.before, rescored.after
        self.num_decisions += 1
        self.num_changed += not math.isclose(
            before.reward, after.reward, rel_tol=_ROUNDING, abs_tol=_ROUNDING
        )
        if after.terms and after.mode == "train":
            self._num_terms.update(after.terms.keys())
            for name, value in after.terms.items():
                self._sum_terms[name] += value
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

    @property
    def mean_terms(self) -> dict[str, float]:
        """Mean of each term over the decisions that have it, without those of mode "eval"."""
        return {name: total / self._num_terms[name] for name, total in self._sum_terms.items()}

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
            found = sorted(file for file in path.glob("*.jsonl") if file.is_file())
            complaint = f"no .jsonl file in it{suggest_logs(path)}"
        else:
            found, complaint = [path] * path.is_file(), "no such file or folder"
        if not found:
            raise RescoreError(f"{path}: {complaint}")
        files += (file for file in found if file not in files)
    return files


def suggest_logs(folder: Path) -> str:
    """The end of a message about a folder that is no log: which folders in it look like one."""
    for pattern in ("*/rewards-*.jsonl", "*/*/rewards-*.jsonl", "*/*.jsonl", "*/*/*.jsonl"):
        found = sorted({file.parent for file in folder.glob(pattern)})
        if found:
            names = ", ".join(map(str, found[:_NUM_SUGGESTIONS]))
            more = f" (or {len(found) - _NUM_SUGGESTIONS} others)"
            return f"; did you mean {names}{more if len(found) > _NUM_SUGGESTIONS else ''}?"
    return ""


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


def keep_verdicts(log: Iterable[LoggedDecision]) -> Iterator[Judged]:
    """The decisions with the verdicts that the log has."""
    for logged in log:
        decision = logged.decision
        yield Judged(logged, decision.verdict, decision.grader, decision.mode)


def regrade(
    log: Iterable[LoggedDecision],
    graders: GraderPool,
    *,
    num_in_flight: int,
    grader: GraderName | None = None,
) -> Iterator[Judged]:
    """Grades the responses again, in order.

    Args:
        num_in_flight: how many decisions may be read ahead of the one whose verdict is next.
        grader: grades every response; None: the grader that each label asks for.
    Raises:
        RescoreError: the grader cannot grade against a label, or a grader failed.
    """
    submitted = (_submit(logged, graders, grader) for logged in log)
    for logged, label, verdict in read_ahead(submitted, num_in_flight):
        try:
            found = verdict.result()
        except Exception as error:
            raise RescoreError(f"{logged.place}: a grader failed: {one_line(error)}") from error
        yield Judged(logged, found, label.grader, label.mode)


def keep_rewards(log: Iterable[LoggedDecision]) -> Iterator[Rescored]:
    """Computes the rewards again as they were. The reward of a reward file stays as logged, since
    the log does not say what the file was."""
    for judged in keep_verdicts(log):
        decision = judged.logged.decision
        if decision.terms:
            yield Rescored(judged.logged.place, decision, decision)
        else:
            yield _reweigh_one(judged, decision.sar_weight)


def reweigh(all_judged: Iterable[Judged], *, sar_weight: float | None = None) -> Iterator[Rescored]:
    """Computes the rewards `correctness + sar_weight * SAR`.

    Args:
        sar_weight: weight of SAR; None: each decision's own.
    Raises:
        RescoreError: a reward file gave the logged reward.
    """
    for judged in all_judged:
        decision = judged.logged.decision
        if decision.terms:
            raise RescoreError(
                f"{judged.logged.place}: a reward file gave this reward (its terms: "
                f"{', '.join(decision.terms)}); give the file, or another one: --reward FILE.toml"
            )
        yield _reweigh_one(judged, decision.sar_weight if sar_weight is None else sar_weight)


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


def _reweigh_one(judged: Judged, sar_weight: float) -> Rescored:
    before = judged.logged.decision
    after = before.decide_again(judged.verdict, judged.grader, judged.mode, sar_weight)
    return Rescored(judged.logged.place, before, after)


def _submit(
    logged: LoggedDecision, graders: GraderPool, grader: GraderName | None
) -> tuple[LoggedDecision, Label, Future[Verdict]]:
    try:
        label = parse_label(logged.decision.label, grader)
    except LabelError as error:
        raise RescoreError(f"{logged.place}: {error}") from error
    return logged, label, graders.submit(logged.decision.graded_text, label)
