"""Groups whose rollouts come in several requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reward_server.errors import InvalidRequest
from reward_server.pipeline.waiting import Client
from sar.terms.base import Sample
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


class Cohorts:
    """Refuses what is not whole."""

    def __init__(self, composition: Composition) -> None:
        self._composition = composition

    def join(self, members: Sequence[Member], client: Client) -> list[Settled]:
        """
        Raises:
            InvalidRequest: always.
        """
        raise InvalidRequest(
            f"the reward compares {self._composition.group_size} rollouts of a prompt: send whole "
            "groups in one request"
        )

    def close(self) -> None:
        """Does nothing: nothing is held."""
