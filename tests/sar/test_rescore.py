"""Computing the rewards of logged decisions again, with another weight or grader."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.decision import Decision
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason, Verdict
from sar.rescore import (
    LoggedDecision,
    RescoreError,
    keep_rewards,
    keep_verdicts,
    regrade,
    reweigh,
)
from sar.reward import Likelihood, combine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def graders() -> Iterator[GraderPool]:
    pool = GraderPool(2, 10.0)
    yield pool
    pool.close()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Reason),
            st.sampled_from(["5", {"answer": "5", "mode": "eval"}]),
            st.floats(0, 1e4),
            st.floats(0, 1e4),
            st.floats(-2, 2),
        )
    ),
    st.floats(-2, 2),
)
def test_another_weight_gives_the_servers_rewards(
    decision: Callable[..., Decision], rows: list[tuple[Any, ...]], weight: float
) -> None:
    log = [
        LoggedDecision(
            "x", decision(label=label, reason=reason, nll_qa=qa, nll_a=a, sar_weight=own)
        )
        for reason, label, qa, a, own in rows
    ]
    assert [r.after for r in keep_rewards(log)] == [one.decision for one in log]
    assert [r.after for r in reweigh(keep_verdicts(log))] == [one.decision for one in log]
    for rescored in reweigh(keep_verdicts(log), sar_weight=weight):
        before, after = rescored.before, rescored.after
        sar = max(-1.0, 1 - math.exp(min(before.nll_qa - before.nll_a, 1.0)))
        wanted = before.correctness + (weight * sar if before.mode == "train" else 0)
        assert after.reward == pytest.approx(wanted, abs=1e-12)
        likelihood = Likelihood(before.nll_qa, before.nll_a, 9, False)
        server = combine(Verdict(before.reason), likelihood, sar_weight=weight, mode=before.mode)
        assert after.reward == server.value  # to the last bit
        assert replace(after, reward=before.reward, sar_weight=before.sar_weight) == before


def test_rescoring_loads_no_model_library() -> None:
    script = (
        "import sar.rescore, sar.recompose, sar.terms.reward_file, sys\n"
        "print(*({'torch', 'transformers', 'sympy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=600)
    assert done.stdout.split() == []


def test_another_grader_reads_the_label_as_it_was_sent(
    decision: Callable[..., Decision], graders: GraderPool
) -> None:
    """Of `yes`, the boolean grader's label is true; the exact grader needs the word itself."""
    choices = {"answer": "the blue one", "choices": ["the red one", "the blue one"]}
    log = [
        LoggedDecision("a:1", decision("Yes", "yes")),
        LoggedDecision("a:2", decision("the blue one", choices)),
        LoggedDecision("a:3", decision("Answer: B", choices)),
        LoggedDecision("a:4", decision("42", '{"answer": "42", "mode": "eval"}')),
        LoggedDecision("a:5", decision("The capital", "Paris\tFrance")),
    ]
    again = regrade(log, graders, num_in_flight=2, grader="exact")
    afters = [r.after for r in reweigh(again)]
    assert [a.reason for a in afters] == ["correct", "correct", "wrong", "correct", "wrong"]
    assert [a.mode for a in afters] == ["train", "train", "train", "eval", "train"]
    own = list(regrade(log, graders, num_in_flight=2))
    assert [a.grader for a in own] == ["boolean", "choice", "choice", "math", "exact"]


def test_the_grader_sees_neither_special_tokens_nor_open_thinking(
    decision: Callable[..., Decision], graders: GraderPool
) -> None:
    log = [
        LoggedDecision(
            "a:1", decision("Answer: Lisbon<|im_end|>", "Lisbon", special_tokens=["<|im_end|>"])
        ),
        LoggedDecision("a:2", decision("It is 5.", "5", prompt="2 + 3?<think>\n")),
    ]
    reasons = [judged.verdict.reason for judged in regrade(log, graders, num_in_flight=1)]
    assert reasons == [Reason.CORRECT, Reason.NO_ANSWER]


def test_a_failing_grader_is_an_error_and_no_verdict(decision: Callable[..., Decision]) -> None:
    class Failing:
        def submit(self, *_: object) -> Any:
            future: Future[Verdict] = Future()
            future.set_exception(ZeroDivisionError("by zero"))
            return future

    graders = cast(GraderPool, Failing())
    with pytest.raises(RescoreError, match="a:1: a grader failed: ZeroDivisionError: by zero"):
        list(regrade([LoggedDecision("a:1", decision())], graders, num_in_flight=3))


def test_decisions_are_read_no_further_ahead_than_allowed(
    decision: Callable[..., Decision], graders: GraderPool
) -> None:
    num_read = 0

    def log() -> Iterator[LoggedDecision]:
        nonlocal num_read
        for number in range(200):
            num_read += 1
            yield LoggedDecision(f"a:{number}", decision(f"Answer: {number}", "5"))

    for number, judged in enumerate(regrade(log(), graders, num_in_flight=8)):
        assert judged.logged.place == f"a:{number}"
        assert judged.verdict.answer == str(number)
        assert num_read <= number + 9
