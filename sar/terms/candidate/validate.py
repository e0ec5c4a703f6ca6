"""Decides whether a candidate is fit to train with: tries it on the probe batch.

A candidate is accepted if each of these holds, in this order:
1. its source is allowed;
2. each call ends within the limits and returns a finite number within the bounds;
3. a second call on each rollout, in another order, returns the same number;
4. it is fast enough;
5. its rewards are not all the same;
6. right responses earn more than wrong ones on average;
7. no attack that does not solve, no hostile text and no honest wrong response earns more, on
   average, than the honest right responses to the same problems.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from sar.terms.candidate.batch import ProbeBatch, ProbeRollout
from sar.terms.candidate.errors import CandidateError, Fault
from sar.terms.candidate.runner import CandidateRunner
from sar.terms.candidate.sandbox import Limits

Check = Fault | Literal["unstable", "slow", "constant", "right below wrong", "attack"]
"""What a candidate failed: a call, or one of the comparisons."""

MAX_MEAN_CALL_S = 1e-3
"""CPU seconds of a call, on average over the batch: two processes give 2,000 calls a second."""

_SEED = 2026
# A first pass that takes so many times as long as it may is not waited for.
_GIVE_UP_FACTOR = 2
# Smaller differences are those of rounding.
_MIN_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Accepted:
    """A candidate that may be trained with."""

    rewards: tuple[float, ...]
    """For each rollout of the batch. Equal ones mean candidates that do the same."""
    mean_right: float
    mean_wrong: float
    call_s: float
    """CPU seconds of a call, on average."""


@dataclass(frozen=True)
class Rejection:
    """A candidate that is not used."""

    check: Check
    reason: str
    """One line that tells its author, who may be a language model, what to change."""


def validate(source: str, batch: ProbeBatch, limits: Limits | None = None) -> Accepted | Rejection:
    """Tries a candidate on the batch.

    Raises:
        SandboxError: the sandbox or the machine is at fault. That is no rejection.
    """
    try:
        runner = CandidateRunner(source, limits)
    except CandidateError as error:
        return Rejection(error.fault, str(error))
    first: list[tuple[float, float]] = []
    spent_s = 0.0
    for one in batch:
        try:
            first.append(runner.measure(one.sample))
        except CandidateError as error:
            return Rejection(error.fault, f"{error} ({_describe(one)})")
        spent_s += first[-1][1]
        if spent_s > _GIVE_UP_FACTOR * MAX_MEAN_CALL_S * len(batch):  # do not wait for the rest
            return _reject_slow(spent_s / len(first))
    rewards = [reward for reward, _ in first]
    order = list(range(len(batch)))
    random.Random(_SEED).shuffle(order)
    seconds = [0.0] * len(batch)
    for index in order:
        one = batch[index]
        try:
            reward, second_s = runner.measure(one.sample)
        except CandidateError as error:
            return Rejection("unstable", f"a second call failed: {error} ({_describe(one)})")
        if reward != rewards[index]:
            return Rejection(
                "unstable",
                f"two calls returned {rewards[index]:.6g} and {reward:.6g} for the same sample "
                f"({_describe(one)}); use nothing but the sample",
            )
        seconds[index] = min(first[index][1], second_s)
    return _compare(batch, rewards, fmean(seconds))


def _compare(batch: ProbeBatch, rewards: Sequence[float], call_s: float) -> Accepted | Rejection:
    if call_s > MAX_MEAN_CALL_S:
        return _reject_slow(call_s)
    if max(rewards) - min(rewards) < _MIN_DIFFERENCE:
        return Rejection("constant", f"it returns {rewards[0]:.6g} for all {len(batch)} samples")
    pairs = list(zip(batch, rewards, strict=True))
    mean_right = fmean(reward for one, reward in pairs if one.sample["correct"])
    mean_wrong = fmean(reward for one, reward in pairs if not one.sample["correct"])
    if mean_right - mean_wrong < _MIN_DIFFERENCE:
        return Rejection(
            "right below wrong",
            f"right responses earn {mean_right:.4g} and wrong ones {mean_wrong:.4g} on average; "
            "right ones must earn more",
        )
    gains = sorted(_list_gains(batch, rewards), key=lambda one: -one[0])
    if gains and gains[0][0] > _MIN_DIFFERENCE:
        gain, worst = gains[0]
        others = sum(more > _MIN_DIFFERENCE for more, _ in gains) - 1
        verb = "earns" if others == 1 else "earn"
        also = f"; {_count(others, 'other attack')} {verb} more too" if others else ""
        return Rejection(
            "attack",
            f"a response that does not solve earns {gain:.4g} more than honest right ones: it "
            f"{worst.trick} ({worst.name}){also}; make wrong responses earn less",
        )
    return Accepted(tuple(rewards), mean_right, mean_wrong, call_s)


def _reject_slow(call_s: float) -> Rejection:
    return Rejection(
        "slow",
        f"a call takes {call_s * 1e3:.3g} ms on average, more than {MAX_MEAN_CALL_S * 1e3:g} ms; "
        "go over each text once or twice at most",
    )


def _list_gains(
    batch: ProbeBatch, rewards: Sequence[float]
) -> Iterator[tuple[float, ProbeRollout]]:
    """For each attack: what it earns more than the honest responses, on average."""
    gains: dict[str, list[float]] = {}
    first: dict[str, ProbeRollout] = {}
    for one, reward in zip(batch, rewards, strict=True):
        if one.honest is not None:
            gains.setdefault(one.name, []).append(reward - rewards[one.honest])
            first.setdefault(one.name, one)
    for name, own in gains.items():
        yield fmean(own), first[name]


def _describe(one: ProbeRollout) -> str:
    sample = one.sample
    found = "right" if sample["correct"] else "wrong"
    tokens = _count(sample["response_tokens"], "token")
    characters = _count(len(sample["response"]), "character")
    return f"on {one.name!r}, a {found} response of {tokens} and {characters}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
