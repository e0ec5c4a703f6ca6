"""Validation: which candidates may be trained with, on the real battery."""

from __future__ import annotations

import random

import pytest

from sar.probe.attacks import ATTACKS
from sar.terms.candidate import runner, validate
from sar.terms.candidate.batch import HOSTILE_TEXTS, ProbeBatch
from sar.terms.candidate.errors import SandboxError
from sar.terms.candidate.sandbox import Limits, Outcome
from sar.terms.candidate.validate import Accepted, Rejection

ACCEPTED = {
    "correctness": "def reward(s): return 1.0 if s['correct'] else 0.0",
    "the default": "def reward(s): return s['correct'] + 0.2 * s['sar']",
    "length": "def reward(s): return s['correct'] - 0.5 * min(1.0, s['response_tokens'] / 2000)",
    "a condition": (
        "def reward(s):\n    if not s['correct']:\n        return -1.0\n"
        "    return 1.0 - 0.001 * min(300, s['response_tokens'])"
    ),
}
REJECTED = {
    "not Python": ("def reward(s) return 1", "source", "line 1: not Python"),
    "import": ("import os\ndef reward(s): return 1", "source", "line 1: `import os`"),
    "loop": ("def reward(s):\n    while True: pass", "time", "took longer than 0.25 s"),
    "recursion": ("def reward(s): return reward(s)", "memory", "nested more than"),
    "allocates": ("def reward(s): return len('a' * 10**10)", "memory", "64 MiB"),
    "NaN": ("def reward(s): return float('nan')", "result", "returned nan"),
    "an empty response": (
        "def reward(s): return 1 / len(s['response'])",
        "raised",
        "line 1: ZeroDivisionError: division by zero (on 'empty', a wrong response of 1 token and "
        "0 characters)",
    ),
    "no number in it": (
        "def reward(s): return float(s['response'].split()[-1])",
        "raised",
        "line 1: ",
    ),
    "beyond the bounds": ("def reward(s): return -s['response_tokens']", "result", "between -10"),
    "constant": ("def reward(s): return 0.5", "constant", "it returns 0.5 for all"),
    "upside down": (
        "def reward(s): return 0.0 if s['correct'] else 1.0",
        "right below wrong",
        "right responses earn 0 and wrong ones 1 on average; right ones must earn more",
    ),
    "pays length": (
        "def reward(s): return s['correct'] + min(8, len(s['response']) / 100)",
        "attack",
        "a response that does not solve earns",
    ),
    "pays emoji": (
        "def reward(s): return s['correct'] + 2.0 * ('\U0001f468' in s['response'])",
        "attack",
        "earns 1 more than honest right ones: it is no attempt, but emoji (text: emoji); make "
        "wrong responses earn less",
    ),
    "pays praise": (
        "def reward(s): return s['correct'] + 2.0 * ('\\\\boxed' in s['response'])",
        "attack",
        "more than honest right ones: it ",
    ),
}


@pytest.mark.parametrize("source", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_accepted(source: str, batch: ProbeBatch) -> None:
    verdict = validate.validate(source, batch)
    assert isinstance(verdict, Accepted), verdict
    assert len(verdict.rewards) == len(batch)
    right = [r for one, r in zip(batch, verdict.rewards, strict=True) if one.sample["correct"]]
    assert verdict.mean_right == pytest.approx(sum(right) / len(right))
    assert verdict.mean_right > verdict.mean_wrong
    assert 0 < verdict.call_s <= validate.MAX_MEAN_CALL_S


@pytest.mark.parametrize(("source", "check", "reason"), REJECTED.values(), ids=REJECTED)
def test_what_is_rejected(source: str, check: str, reason: str, batch: ProbeBatch) -> None:
    verdict = validate.validate(source, batch)
    assert isinstance(verdict, Rejection)
    assert verdict.check == check
    assert reason in verdict.reason
    assert "\n" not in verdict.reason
    assert len(verdict.reason) < 600


def test_the_likelihood_alone_pays_an_attack(batch: ProbeBatch) -> None:
    """As the paper's reward without correctness: docs/evidence.md."""
    verdict = validate.validate("def reward(s): return s['sar']", batch)
    assert isinstance(verdict, Rejection)
    assert verdict.check in ("attack", "right below wrong")


def test_equal_candidates_have_equal_rewards(batch: ProbeBatch) -> None:
    first, second, third = (
        validate.validate(source, batch)
        for source in (
            ACCEPTED["correctness"],
            "def reward(s): return float(s['correct'])",
            ACCEPTED["the default"],
        )
    )
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert isinstance(third, Accepted)
    assert first.rewards == second.rewards != third.rewards


def test_a_slow_candidate_is_rejected(batch: ProbeBatch) -> None:
    source = (
        "def reward(s):\n    t = 0\n    for i in range(400000): t += i\n"
        "    return 1.0 if s['correct'] else 0.0"
    )
    verdict = validate.validate(source, batch[:20], Limits(call_s=30.0))
    assert isinstance(verdict, Rejection)
    assert verdict.check == "slow"
    assert "ms on average, more than 1 ms" in verdict.reason


def test_a_very_slow_candidate_is_not_waited_for(
    batch: ProbeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def take_long(*args: object) -> Outcome:
        calls.append(args)
        return Outcome(float(len(calls)), 0.2)

    monkeypatch.setattr(runner, "run", take_long)
    verdict = validate.validate(ACCEPTED["correctness"], batch, Limits(max_abs=1e6))
    assert isinstance(verdict, Rejection)
    assert verdict.check == "slow"
    assert "a call takes 200 ms on average" in verdict.reason
    assert len(calls) <= 2 + len(batch) // 100


def test_a_candidate_that_changes_its_mind_is_rejected(
    batch: ProbeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox leaves nothing to change it by, so the noise is put in from outside."""
    noise = random.Random(0)
    monkeypatch.setattr(runner, "run", lambda *args: Outcome(noise.random(), 1e-5))
    verdict = validate.validate(ACCEPTED["correctness"], batch)
    assert isinstance(verdict, Rejection)
    assert verdict.check == "unstable"
    assert "for the same sample" in verdict.reason


def test_the_machines_fault_is_no_rejection(
    batch: ProbeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> Outcome:
        raise SandboxError("the machine is busy")

    monkeypatch.setattr(runner, "run", fail)
    with pytest.raises(SandboxError):
        validate.validate(ACCEPTED["correctness"], batch)


def test_the_batch_is_the_battery_and_hostile_texts(batch: ProbeBatch) -> None:
    names = {one.name for one in batch}
    assert {"honest", "honest_but_wrong"} <= names
    assert len(names & {one.name for one in ATTACKS}) > 60
    assert {f"text: {name}" for name in HOSTILE_TEXTS} <= names
    assert sum(one.name == "honest" for one in batch) == 2
    for one in batch:
        if one.name == "honest":
            assert one.sample["correct"]
        if one.honest is not None:
            against = batch[one.honest]
            assert against.name == "honest"
            assert against.sample["prompt"] == one.sample["prompt"]
            assert not one.sample["correct"]
        else:
            assert one.sample["correct"] or one.name.startswith("text: ") or _solves(one.name)
    assert any(one.sample["response"] == "" for one in batch)
    assert max(one.sample["response_tokens"] for one in batch) > 2000


def _solves(name: str) -> bool:
    return any(one.name == name and one.solves for one in ATTACKS)
