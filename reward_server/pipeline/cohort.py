"""A cohort: rollouts of one prompt whose rewards are computed together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import MappingProxyType

from reward_server.errors import ScoringFailed
from reward_server.pipeline.waiting import Client
from sar.decision import NO_GROUP, GroupPlace
from sar.errors import one_line
from sar.terms.base import Sample, TermError
from sar.terms.composition import Composition


@dataclass(frozen=True)
class Member:
    """One scored rollout of a group."""

    key: str
    """Equal for the rollouts of one prompt and label."""
    fingerprint: str
    """Equal for a rollout that is sent again, and for siblings with equal texts."""
    sample: Sample
    scores: Mapping[str, float]
    """Values of the terms that look at this rollout alone."""
    weights_loaded_at_s: float = 0.0
    """When (monotonic) the weights that scored it were loaded."""

    @property
    def num_chars(self) -> int:
        return self.sample.num_chars


@dataclass(frozen=True)
class Settled:
    """The reward of one rollout."""

    reward: float
    terms: Mapping[str, float]
    place: GroupPlace = NO_GROUP
    """For the reward log. A retry has the seat of its first attempt."""
    incomplete: bool = False
    """True if siblings were missing at the deadline."""


class Outdated(Exception):
    """Siblings were scored with newer weights: rollouts of the request must be scored again."""

    settled: Mapping[int, Settled] = MappingProxyType({})
    """The rewards of the others, by index: their groups were complete."""


@dataclass(eq=False)
class GivenAnswer:
    """What a member of a settled cohort got. It is kept without texts, for a retry."""

    fingerprint: str
    settled: Settled
    is_delivered: bool = False
    """False if the client had gone when the answer was there."""


@dataclass(eq=False)
class Slot:
    """A member's place in its cohort, and who waits for its answer."""

    member: Member
    cohort: Cohort
    client: Client | None
    """None: nobody waits."""
    is_alone: bool = False
    """Whether its request has no other slot."""
    answer: Future[Settled] = field(default_factory=Future)
    given: GivenAnswer | None = None
    """What is kept of the answer for a retry. None: nothing (yet)."""

    def can_be_retaken_by(self, client: Client) -> bool:
        """True if whoever waited has gone. Two slots of one request are siblings, not retries."""
        return self.client is None or (self.client is not client and self.client.is_gone())


@dataclass(eq=False)
class Cohort:
    """The rollouts of one prompt that have come so far."""

    key: str
    last_joined_s: float = 0.0
    """When (monotonic) the last new member came; a retry does not count."""
    slots: list[Slot] = field(default_factory=list)
    is_open: bool = True
    """False once it is being settled, or is gone."""
    is_whole: bool = False
    """True if one request brings all members. Nobody else can join it."""

    def add(self, member: Member, client: Client) -> Slot:
        slot = Slot(member, self, client)
        self.slots.append(slot)
        return slot

    @property
    def members(self) -> list[Member]:
        return [slot.member for slot in self.slots]

    @property
    def weights_loaded_at_s(self) -> float:
        """When (monotonic) the weights were loaded that scored the members of an open cohort."""
        return self.slots[0].member.weights_loaded_at_s

    @property
    def num_chars(self) -> int:
        return sum(slot.member.num_chars for slot in self.slots)

    @property
    def num_waiting(self) -> int:
        return sum(slot.client is not None for slot in self.slots)


def compute_rewards(
    composition: Composition, members: Sequence[Member]
) -> list[tuple[float, Mapping[str, float]]]:
    """The reward and the terms' values of each member of a group.

    Raises:
        ScoringFailed: a term failed.
    """
    samples = [member.sample for member in members]
    try:
        scores = composition.score_group(samples, [member.scores for member in members])
        rewards = composition.combine(samples, scores)
        if not all(map(math.isfinite, rewards)):
            raise FloatingPointError("a sum of terms is not a finite number")
    except TermError as error:
        raise ScoringFailed(str(error)) from error
    # A term may be the user's own. Whatever it raises, its group must not wait for ever.
    except BaseException as error:
        raise ScoringFailed(f"the terms of a group failed: {one_line(error)}") from error
    return list(zip(rewards, scores, strict=True))


def answer_with_error(slots: Sequence[Slot], error: Exception) -> None:
    """Gives each slot an error of its own: a raised error collects its waiter's stack."""
    for slot in slots:
        slot.answer.set_exception(type(error)(str(error)))
