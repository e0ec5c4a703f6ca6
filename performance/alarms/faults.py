"""Known faults, put into the second half of a run: its rollouts are changed as the fault would.

Healthy training does not bring these faults about, and no reward of the demo pays for them. A real
run with such a fault in it shows how soon an alarm notices.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sar.decision import Decision
from sar.grading.verdict import Reason

Change = Callable[[Decision, random.Random], Decision]


@dataclass(frozen=True)
class Fault:
    """One fault, and the alarm that is there for it."""

    alarm: str
    description: str
    change: Change
    share: float = 1.0
    """Share of the rollouts that have it."""

    def put_into(self, run: Sequence[Decision], start: int, seed: int) -> Iterator[Decision]:
        """The run's rollouts, of which those from number `start` on have the fault."""
        rng = random.Random(seed)
        for number, decision in enumerate(run):
            if number >= start and rng.random() < self.share:
                yield self.change(decision, rng)
            else:
                yield decision


def _state_no_answer(decision: Decision, _: random.Random) -> Decision:
    lost = decision.correctness
    return replace(
        decision,
        reason=Reason.NO_ANSWER,
        answer=None,
        correctness=0.0,
        reward=decision.reward - lost,
    )


def _misjudge(decision: Decision, rng: random.Random) -> Decision:
    if not decision.correctness:
        return decision
    return replace(_state_no_answer(decision, rng), reason=Reason.WRONG, answer=decision.answer)


def _repeat(decision: Decision, _: random.Random) -> Decision:
    text = f"{decision.response} " * 3
    return replace(decision, response=text, num_response_tokens=3 * decision.num_response_tokens)


def _level(decision: Decision, _: random.Random) -> Decision:
    return replace(decision, reward=1.0)


def _spoil_label(decision: Decision, _: random.Random) -> Decision:
    return replace(decision, label_unreadable=True)


def _hang(decision: Decision, _: random.Random) -> Decision:
    return replace(_state_no_answer(decision, _), reason=Reason.TIMEOUT)


def _change_template(decision: Decision, _: random.Random) -> Decision:
    return replace(decision, template_mismatch=True)


def _keep_version(version: str | int | None) -> Change:
    return lambda decision, _: replace(decision, policy_version=version)


def list_faults(run: Sequence[Decision], start: int) -> tuple[Fault, ...]:
    """The faults that can be put into a run from rollout number `start` on."""
    return (
        Fault("correctness_falls", "40% of right responses are graded wrong", _misjudge, 0.4),
        Fault("no_answer", "10% of responses state no answer", _state_no_answer, 0.1),
        Fault("repetition", "20% of responses are written three times", _repeat, 0.2),
        Fault("zero_variance", "all rewards are 1", _level),
        Fault("unreadable_labels", "5% of labels cannot be read", _spoil_label, 0.05),
        Fault("grader_bombs", "3% of responses hang a grader", _hang, 0.03),
        Fault("template_mismatch", "all prompts have another template", _change_template),
        Fault(
            "scorer_lags",
            "the scorer keeps its weights",
            _keep_version(run[start].policy_version),
        ),
    )
