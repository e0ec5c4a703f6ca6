"""The seats of a reward log's groups: which rollouts were compared, and what they got.

The log gives each rollout of a group its seat, and the number of seats that its reward compares.
Several lines can have one seat: the client sent the rollout again. A sibling that came late is
compared with those before it, and they are not compared with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from sar.terms.base import Sample

Scored = tuple[float, Mapping[str, float]]
"""A reward, and the values of its terms."""


@dataclass(frozen=True)
class Seat:
    """Where a rollout sits in its group."""

    number: int
    num_members: int
    """The reward compares the seats below this."""


@dataclass(frozen=True)
class Member:
    """A rollout that can be compared."""

    sample: Sample
    scores: Mapping[str, float]
    """Values of the terms that look at this rollout alone."""

    @property
    def num_chars(self) -> int:
        return self.sample.num_chars


@dataclass(eq=False)
class SeatedGroup:
    """What is known of a group of which at least one rollout was settled."""

    scored: dict[Seat, Scored] = field(default_factory=dict)
    """For rollouts that were sent again."""
    members: dict[int, Member] = field(default_factory=dict)
    """By seat, for siblings that came late. Empty once all seats are taken."""

    @property
    def num_chars(self) -> int:
        return sum(one.num_chars for one in self.members.values())


class SeatedGroups:
    """The groups that were settled recently. Forgets the oldest, and their texts before that."""

    def __init__(self, max_groups: int, max_chars: int) -> None:
        """
        Args:
            max_chars: characters of the prompts and responses of incomplete groups.
        """
        self._max_groups = max_groups
        self._max_chars = max_chars
        self._groups: dict[Hashable, SeatedGroup] = {}
        self._num_chars_of: dict[Hashable, int] = {}
        self._num_chars = 0

    def find(self, key: Hashable) -> SeatedGroup:
        """The group with this key; an empty one if it is not known."""
        return self._groups.get(key) or SeatedGroup()

    def keep(self, key: Hashable, group: SeatedGroup) -> None:
        """Remembers a group as the latest."""
        self._discount_texts(key)
        self._groups.pop(key, None)
        self._groups[key] = group
        if group.members:
            self._num_chars_of[key] = group.num_chars
            self._num_chars += group.num_chars
        while self._num_chars > self._max_chars:
            oldest = next(iter(self._num_chars_of))
            self._discount_texts(oldest)
            self._groups[oldest].members = {}
        if len(self._groups) > self._max_groups:
            oldest = next(iter(self._groups))
            self._discount_texts(oldest)
            del self._groups[oldest]

    def _discount_texts(self, key: Hashable) -> None:
        self._num_chars -= self._num_chars_of.pop(key, 0)
