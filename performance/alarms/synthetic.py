"""Made-up runs: streams of decisions with known properties, the same for the same seed.

They look like those of recipes/cpu_demo: steps of 4 prompts with 6 rollouts, a checkpoint every 5
steps. Texts are stand-ins. These runs test that alarms can fire; what alarms are worth, only real
runs can tell.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sar.decision import Decision
from sar.grading.verdict import Reason

PROMPTS_PER_STEP = 4
ROLLOUTS_PER_PROMPT = 6
ROLLOUTS_PER_STEP = PROMPTS_PER_STEP * ROLLOUTS_PER_PROMPT
STEPS_PER_CHECKPOINT = 5
_START = datetime(2026, 1, 1, tzinfo=UTC)
_WORDS = [
    "first",
    "we",
    "add",
    "the",
    "apples",
    "then",
    "count",
    "pears",
    "take",
    "away",
    "two",
    "so",
    "that",
    "many",
    "remain",
]


@dataclass(frozen=True)
class Phase:
    """What rollouts are like at one moment of a run."""

    accuracy: float = 0.85
    """Share of right answers."""
    tokens: float = 60.0
    """Median length of a response."""
    sar: float = 0.22
    """Mean of SAR."""
    no_answer: float = 0.01
    """Share of responses without an answer."""
    term: float = 0.3
    """Share of responses that earn the term `format`."""


def make_run(
    seed: int,
    *,
    start: Phase = Phase(),
    end: Phase = Phase(),
    num_steps: int = 190,
    has_term: bool = False,
    sar_weight: float = 0.2,
    length_weight: float = 0.0,
) -> Iterator[Decision]:
    """The decisions of one run, in order. It moves evenly from `start` to `end`.

    Args:
        has_term: the reward is correctness + a term `format`, not correctness + SAR.
        length_weight: reward that a token takes away.
    """
    rng = random.Random(seed)
    for step in range(num_steps):
        phase = _mix(start, end, step / max(num_steps - 1, 1))
        version = step // STEPS_PER_CHECKPOINT * STEPS_PER_CHECKPOINT
        for number in range(PROMPTS_PER_STEP):
            ease = rng.gauss(0.0, 1.0)
            for rollout in range(ROLLOUTS_PER_PROMPT):
                yield _make_decision(
                    rng, phase, ease, f"{step}-{number}", rollout, version,
                    _START + timedelta(seconds=6 * step + number),
                    has_term=has_term, sar_weight=sar_weight, length_weight=length_weight,
                )  # fmt: skip


def _mix(start: Phase, end: Phase, share: float) -> Phase:
    values = {
        name: (1 - share) * old + share * vars(end)[name] for name, old in vars(start).items()
    }
    return Phase(**values)


def _make_decision(
    rng: random.Random,
    phase: Phase,
    ease: float,
    problem: str,
    rollout: int,
    version: int,
    time: datetime,
    *,
    has_term: bool,
    sar_weight: float,
    length_weight: float,
) -> Decision:
    # Harder prompts have longer responses, and more wrong ones.
    accuracy = min(max(phase.accuracy + 0.1 * ease, 0.0), 1.0)
    num_tokens = max(2, round(phase.tokens * math.exp(0.2 * rng.gauss(0, 1) - 0.1 * ease)))
    is_right = rng.random() < accuracy
    reason = Reason.CORRECT if is_right else Reason.WRONG
    if rng.random() < phase.no_answer:
        reason = Reason.NO_ANSWER
    correctness = float(reason is Reason.CORRECT)
    excess = math.log(num_tokens / phase.tokens)
    sar = min(max(phase.sar - 0.15 * excess + 0.05 * rng.gauss(0, 1), -1.0), 0.99)
    nll_qa = 0.4
    nll_a = nll_qa - math.log(1 - sar)
    terms = {}
    reward = correctness + sar_weight * sar
    if has_term:
        term = float(rng.random() < phase.term)
        terms = {"correctness": correctness, "format": term}
        reward = correctness + term
    reward -= length_weight * num_tokens
    words = " ".join(rng.choice(_WORDS) for _ in range(num_tokens))
    return Decision(
        time=time.isoformat(timespec="milliseconds"),
        request_id=f"r{problem}",
        prompt=f"Problem {problem}?",
        response=f"{words} 5",
        special_tokens=(),
        label="5",
        grader="math",
        mode="train",
        reason=reason,
        answer="5",
        correctness=correctness,
        label_unreadable=False,
        nll_qa=nll_qa,
        nll_a=nll_a,
        ppl_qa=math.exp(nll_qa),
        ppl_a=math.exp(nll_a),
        sar=sar,
        sar_weight=sar_weight,
        reward=reward,
        num_response_tokens=num_tokens,
        over_context=False,
        template_mismatch=False,
        policy_version=version,
        model="made-up",
        server_version="0",
        terms=terms,
    )
