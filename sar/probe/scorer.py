"""What scores the battery: a rollout goes in, its reward and all parts of it come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sar.grading.label import Label
from sar.terms.base import Sample


class ProbeError(Exception):
    """The battery cannot be scored, and the user can mend it. The message is one line."""


@dataclass(frozen=True)
class Rollout:
    """One response of the battery."""

    prompt: str
    response: str
    """Its end-of-sequence token included."""
    label: Label
    label_as_sent: str | dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """What one rollout earns."""

    sample: Sample
    """The rollout as terms see it: its verdict and likelihood too."""
    terms: Mapping[str, float]
    """Values of the rewards' terms, before weights, by the name of their column."""
    rewards: Mapping[str, float]
    """By the name of the reward."""


@dataclass(frozen=True)
class NamedReward:
    """One reward that the battery is scored with."""

    name: str
    """How the tables call it."""
    formula: str
    """`Composition.formula`."""
    is_sum: bool
    """True if another term with a weight can be added by hand: it is not normalised in a group."""


class Scorer(Protocol):
    """Scores the battery."""

    @property
    def rewards(self) -> Sequence[NamedReward]:
        """The rewards, in the order in which the user named them."""

    def score(self, battery: Sequence[Rollout]) -> list[Scored]:
        """Scores the honest response to one problem and all attacks on it, in their order.

        Terms that compare rollouts compare these.

        Raises:
            ProbeError: there is no reward.
        """
