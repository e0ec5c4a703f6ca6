"""Sums over blocks of rollouts, and what the blocks of a window say about a measure.

A block is 1/8 of a window. Rollouts of one prompt are alike, so a window's rollouts are not
independent. The standard error of a window's mean therefore comes from the means of its blocks
(batch means), which holds for alike rollouts too as long as a prompt's rollouts are in one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sar.alarms.measures import CORRECTNESS, LENGTH, REWARD

BLOCKS_PER_WINDOW = 8
_MIN_BLOCKS = BLOCKS_PER_WINDOW // 2
# Variances below this share of a mean square are rounding.
_ROUNDING = 1e-12
MAX_SCORE = 100.0
"""Bound of every z score and effect size: a measure without any spread has no finite one."""


@dataclass
class Moments:
    """Sums over the rollouts that have a measure."""

    num: int = 0
    total: float = 0.0
    squares: float = 0.0
    with_reward: float = 0.0
    """Sum of measure x reward."""

    def add(self, value: float, reward: float) -> None:
        self.num += 1
        self.total += value
        self.squares += value * value
        self.with_reward += value * reward

    def merge(self, other: Moments) -> None:
        self.num += other.num
        self.total += other.total
        self.squares += other.squares
        self.with_reward += other.with_reward

    @property
    def mean(self) -> float:
        return self.total / self.num if self.num else 0.0

    @property
    def variance(self) -> float:
        """Exactly 0 if all values are equal, up to rounding."""
        if not self.num:
            return 0.0
        return _remove_rounding(self.squares / self.num - self.mean**2, self.squares / self.num)

    @property
    def deviation(self) -> float:
        return math.sqrt(self.variance)


@dataclass
class Block:
    """The sums of some rollouts in a row."""

    num: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)
    length_with_correctness: float = 0.0

    def add(self, values: Mapping[str, float]) -> None:
        self.num += 1
        reward = values[REWARD]
        for name, value in values.items():
            moments = self.moments.get(name)
            if moments is None:
                moments = self.moments[name] = Moments()
            moments.add(value, reward)
        self.length_with_correctness += values[LENGTH] * values[CORRECTNESS]


@dataclass(frozen=True)
class Change:
    """A measure at the start and now."""

    before: float
    after: float
    z: float
    """The difference, in its own standard errors. Positive: it rose."""
    effect: float
    """The difference, in standard deviations of a single rollout."""


class Window:
    """What some blocks say together."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks: Sequence[Block] = tuple(blocks)
        self.num = sum(block.num for block in self._blocks)
        self.moments: dict[str, Moments] = {}
        for block in self._blocks:
            for name, moments in block.moments.items():
                self.moments.setdefault(name, Moments()).merge(moments)

    def mean(self, name: str) -> float:
        return self.moments.get(name, _NOTHING).mean

    def correlate_with_reward(self, name: str) -> float:
        """Correlation of a measure with the reward. 0 if one of them is constant."""
        one, reward = self.moments.get(name, _NOTHING), self.moments[REWARD]
        covariance = one.with_reward / max(one.num, 1) - one.mean * reward.mean
        return _correlate(covariance, one, reward)

    def partial_correlation(self) -> tuple[float, float]:
        """Correlation of reward and length given correctness, and the share of the reward's
        variance that correctness leaves. Both are 0 if correctness explains all of the reward."""
        reward, length = self.moments[REWARD], self.moments[LENGTH]
        correct = self.moments[CORRECTNESS]
        products = sum(block.length_with_correctness for block in self._blocks)
        length_correct = _correlate(
            products / self.num - length.mean * correct.mean, length, correct
        )
        reward_correct = self.correlate_with_reward(CORRECTNESS)
        reward_length = self.correlate_with_reward(LENGTH)
        rest_of_reward = 1.0 - reward_correct**2
        rest_of_length = 1.0 - length_correct**2
        if not reward.variance or rest_of_reward < 1e-6 or rest_of_length < 1e-6:
            return 0.0, 0.0
        partial = (reward_length - reward_correct * length_correct) / math.sqrt(
            rest_of_reward * rest_of_length
        )
        return min(max(partial, -1.0), 1.0), rest_of_reward

    def block_means(self, name: str) -> list[float]:
        """The measure's mean in each block that has it."""
        found = (block.moments.get(name) for block in self._blocks)
        return [moments.mean for moments in found if moments]


def compare(before: Window, after: Window, name: str) -> Change | None:
    """How a measure changed between two windows. None: too few blocks of one have it."""
    means_before, means_after = before.block_means(name), after.block_means(name)
    if min(len(means_before), len(means_after)) < _MIN_BLOCKS:
        return None
    old, new = before.moments[name], after.moments[name]
    difference = _remove_rounding(new.mean - old.mean, abs(new.mean) + abs(old.mean))
    error = math.sqrt(_variance_of_mean(means_before) + _variance_of_mean(means_after))
    spread = math.sqrt((old.variance + new.variance) / 2)
    return Change(old.mean, new.mean, _divide(difference, error), _divide(difference, spread))


def _variance_of_mean(means: Sequence[float]) -> float:
    """Estimated variance of the mean of several numbers."""
    middle = math.fsum(means) / len(means)
    squares = math.fsum((one - middle) ** 2 for one in means)
    return squares / (len(means) - 1) / len(means)


def _correlate(covariance: float, one: Moments, other: Moments) -> float:
    deviations = one.deviation * other.deviation
    return min(max(covariance / deviations, -1.0), 1.0) if deviations else 0.0


def _divide(difference: float, spread: float) -> float:
    """The quotient, bounded. Without any spread, every difference is as sure as can be."""
    if not difference:
        return 0.0
    if abs(difference) >= MAX_SCORE * spread:
        return math.copysign(MAX_SCORE, difference)
    return difference / spread


def _remove_rounding(value: float, scale: float) -> float:
    """0 if a value is so much smaller than what it was subtracted from that it is rounding."""
    return value if abs(value) > _ROUNDING * scale else 0.0


_NOTHING = Moments()
