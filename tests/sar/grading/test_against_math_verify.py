"""The math grader is nowhere worse than math-verify alone, kind by kind.

    pytest tests/sar/grading/test_against_math_verify.py -s       prints the table

The cases are ours (cases.jsonl) and those in shared/data. People graded them; disputed ones are
left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool

OURS = Path(__file__).parent / "cases.jsonl"


@dataclass(frozen=True)
class Case:
    kind: str
    response: str
    label: str
    correct: bool


def read_our_cases() -> list[Case]:
    rows = [json.loads(line) for line in OURS.read_text(encoding="utf-8").splitlines()]
    return [
        Case(row["id"].rpartition("-")[0], row["response"], row["label"], row["correct"])
        for row in rows
        if isinstance(row["label"], str)
        and parse_label(row["label"]).grader == "math"
        and not row.get("disputed")
    ]


def read_shared_cases(folder: Path) -> list[Case]:
    rows = [json.loads(line) for line in (folder / "grading_cases.jsonl").read_text().splitlines()]
    return [
        Case(row["origin"].partition("@")[0], row["response"], row["label"], bool(row["expected"]))
        for row in rows
        if row["kind"] == "math" and row["tier"] == "core" and not row.get("contested")
    ]


def check(cases: list[Case], math_verify: Callable[[str, str], bool]) -> None:
    """Prints how many verdicts of each kind are right, and fails where ours are fewer."""
    pool = GraderPool(num_workers=2, timeout_s=5)
    pending = [pool.submit(case.response, parse_label(case.label, "math")) for case in cases]
    ours = [bool(verdict.result().correctness) for verdict in pending]
    pool.close()
    alone = [math_verify(case.response, case.label) for case in cases]
    num_cases = Counter(case.kind for case in cases)
    right, right_alone = (
        Counter(c.kind for c, verdict in zip(cases, verdicts, strict=True) if verdict == c.correct)
        for verdicts in (ours, alone)
    )
    print(f"\n{'kind':44} cases  ours  math-verify alone")
    for kind in sorted(num_cases):
        print(f"{kind:44} {num_cases[kind]:5} {right[kind]:5} {right_alone[kind]:5}")
    print(f"{'all':44} {len(cases):5} {right.total():5} {right_alone.total():5}")
    worse = [kind for kind in num_cases if right[kind] < right_alone[kind]]
    assert worse == []
    assert right.total() >= 0.98 * len(cases)


@pytest.mark.slow
def test_on_our_cases(math_verify: Callable[[str, str], bool]) -> None:
    check(read_our_cases(), math_verify)


@pytest.mark.slow
def test_on_the_shared_cases(data_folder: Path, math_verify: Callable[[str, str], bool]) -> None:
    check(read_shared_cases(data_folder), math_verify)
