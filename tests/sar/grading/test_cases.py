"""Agreement of the graders with 2,383 cases that people graded by hand, most before the graders.

    pytest tests/sar/grading/test_cases.py -s      prints the agreement of each grader

The cases (`cases.jsonl`) are of kinds that math-verify and simpler extraction get wrong. Graders
need not agree with the disputed ones, about which people disagree.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason, Verdict

CASES = Path(__file__).parent / "cases.jsonl"
RULES = Path(__file__).parents[3] / "sar/grading/rules"
REQUIRED_AGREEMENT = 0.98

Graded = dict[str, list[tuple[dict[str, Any], Verdict]]]
"""(case, verdict) of every case, by the grader's name."""


@pytest.fixture(scope="module")
def graded() -> Graded:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    pool = GraderPool(num_workers=2, timeout_s=5)
    pending = [(case, pool.submit(case["response"], parse_label(case["label"]))) for case in cases]
    by_grader: Graded = defaultdict(list)
    for case, verdict in pending:
        by_grader[parse_label(case["label"]).grader].append((case, verdict.result()))
    pool.close()
    return by_grader


@pytest.mark.slow
@pytest.mark.parametrize("grader", ["math", "choice", "boolean", "exact"])
def test_agrees_with_undisputed_cases(graded: Graded, grader: str) -> None:
    undisputed = [(c, v) for c, v in graded[grader] if not c.get("disputed")]
    wrong = [(c, v) for c, v in undisputed if bool(v.correctness) != c["correct"]]
    agreement = 1 - len(wrong) / len(undisputed)
    print(f"\n{grader}: {len(undisputed) - len(wrong)} of {len(undisputed)} ({agreement:.1%})")
    listing = "\n".join(
        f"{c['id']}: {c['response'][-90:]!r} | {c['label']} | {v}" for c, v in wrong
    )
    assert agreement >= REQUIRED_AGREEMENT, f"{agreement:.1%}\n{listing}"


@pytest.mark.slow
def test_false_positives_are_as_rare_as_false_negatives(graded: Graded) -> None:
    """A reward for a wrong answer is what a policy learns to exploit."""
    undisputed = [(c, v) for cases in graded.values() for c, v in cases if not c.get("disputed")]
    wrong_answers = [(c, v) for c, v in undisputed if not c["correct"]]
    rewarded = [c["id"] for c, v in wrong_answers if v.correctness]
    assert len(rewarded) <= 0.01 * len(wrong_answers), rewarded


@pytest.mark.slow
def test_no_case_is_too_much_for_a_grader(graded: Graded) -> None:
    reasons = {v.reason for cases in graded.values() for _, v in cases}
    assert not reasons & {Reason.TIMEOUT, Reason.CRASHED}


def test_comments_in_the_rules_name_existing_cases() -> None:
    files = sorted(CASES.parent.glob("*cases.jsonl"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    ids = {json.loads(line)["id"] for line in lines}
    assert len(ids) == len(lines)
    rules = "\n".join(path.read_text(encoding="utf-8") for path in RULES.glob("*.py"))
    kinds = "math|choice|boolean|exact|second|rollouts"
    named = set(re.findall(rf"\b(?:{kinds})-[\w-]+-\d{{3}}\b", rules))
    assert named
    assert named <= ids
