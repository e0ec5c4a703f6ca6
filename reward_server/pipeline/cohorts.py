"""Groups whose rollouts come in several requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from reward_server.errors import InvalidRequest, ScoringFailed
from reward_server.pipeline.waiting import Client
from sar.terms.base import Sample, TermError
from sar.terms.composition import Composition


@dataclass(frozen=True)
class Member:
    """One scored rollout of a group."""

    key: str
    """Equal for the rollouts of one prompt and label."""
    fingerprint: str
    """Equal for a rollout that is sent again."""
    sample: Sample
    scores: Mapping[str, float]
    """Values of the terms that look at this rollout alone."""


@dataclass(frozen=True)
class Settled:
    """The reward of one rollout."""

    reward: float
    terms: Mapping[str, float]
    group: str = ""
    """Shared by all rollouts that were settled together. Empty: the reward compares nothing."""
    incomplete: bool = False
    """True if siblings were missing at the deadline."""


@dataclass(frozen=True)
class CohortsState:
    """What the cohorts hold."""

    num_open: int
    num_held: int
    num_chars: int
    num_settled: int
    num_incomplete: int
    num_retries: int


class Cohorts:
    """Settles the groups that are whole within a request, and refuses others."""

    def __init__(self, composition: Composition) -> None:
        assert composition.group_size is not None
        self._size = composition.group_size
        self._composition = composition
        self._num_settled = 0

    def join(self, members: Sequence[Member], client: Client) -> list[Settled]:
        """
        Raises:
            InvalidRequest: the siblings of a rollout are missing.
            ScoringFailed: a term failed.
        """
        by_key: dict[str, list[int]] = {}
        for index, member in enumerate(members):
            by_key.setdefault(member.key, []).append(index)
        settled: dict[int, Settled] = {}
        for indices in by_key.values():
            if len(indices) % self._size:
                raise InvalidRequest(f"send all {self._size} rollouts of a prompt in one request")
            for start in range(0, len(indices), self._size):
                group = indices[start : start + self._size]
                settled |= zip(group, self._settle([members[i] for i in group]), strict=True)
        return [settled[index] for index in range(len(members))]

    @property
    def state(self) -> CohortsState:
        return CohortsState(0, 0, 0, self._num_settled, 0, 0)

    def close(self) -> None:
        """Does nothing: nothing is held."""

    def _settle(self, members: Sequence[Member]) -> list[Settled]:
        samples = [member.sample for member in members]
        try:
            scores = self._composition.score_group(samples, [one.scores for one in members])
            rewards = self._composition.combine(samples, scores)
        except TermError as error:
            raise ScoringFailed(str(error)) from error
        self._num_settled += 1
        name = uuid4().hex
        return [Settled(*one, group=name) for one in zip(rewards, scores, strict=True)]
