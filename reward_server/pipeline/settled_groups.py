"""Remembers settled groups for a while: for retries, and for siblings that come late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reward_server.pipeline.cohort import Cohort, GivenAnswer, Member, Slot
from reward_server.pipeline.kept import Kept

# About 30 MB. A batch of OpenRLHF has some thousand rollouts.
_MAX_ANSWERS = 1 << 15


@dataclass(eq=False)
class SettledGroup:
    """A group that got its rewards."""

    key: str
    name: str
    """The group's id in the reward log."""
    answers: list[GivenAnswer]
    members: dict[int, Member] = field(default_factory=dict)
    """By seat, with their texts, for siblings that come late. Empty if the group was complete, and
    once the texts have become too many."""

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(sorted(answer.fingerprint for answer in self.answers))

    @property
    def is_delivered(self) -> bool:
        """Whether each answer has reached its client."""
        return all(answer.is_delivered for answer in self.answers)


@dataclass(frozen=True)
class Origin:
    """The settled group that all members of a younger cohort belong to."""

    group: SettledGroup
    retries: list[tuple[Slot, GivenAnswer]]
    late: list[Slot]
    """Siblings that were missing when the group was settled."""


class SettledGroups:
    """The groups that were settled recently. Not safe to use from several threads at once."""

    def __init__(self, group_size: int, max_chars: int, max_answers: int = _MAX_ANSWERS) -> None:
        """
        Args:
            max_chars: characters kept of incomplete groups.
            max_answers: answers kept, of all groups.
        """
        self._group_size = group_size
        # The groups of a key, oldest first: in a run with few prompts, a key has thousands.
        self._by_key: dict[str, dict[SettledGroup, None]] = {}
        self._by_texts: dict[tuple[str, ...], SettledGroup] = {}
        self._texts_of: dict[SettledGroup, tuple[str, ...]] = {}
        self._answers: Kept[SettledGroup] = Kept(max_answers)
        self._texts: Kept[SettledGroup] = Kept(max_chars)

    @property
    def num_chars(self) -> int:
        return self._texts.size

    def add(self, group: SettledGroup, until_s: float) -> None:
        """Remembers a group until this time (monotonic); again, if it has more members now.

        A group with the same texts is forgotten. If its answers were lost, the whole group has come
        again, so nobody asks for them any more.
        """
        texts = (group.key, *group.fingerprints)
        if group in self._texts_of:
            self._forget(group)
        if same := self._by_texts.get(texts):
            self._forget(same)
        self._by_texts[texts] = group
        self._texts_of[group] = texts
        self._by_key.setdefault(group.key, {})[group] = None
        self._answers.put(group, until_s, len(group.answers))
        if group.members:
            self._texts.put(
                group, until_s, sum(member.num_chars for member in group.members.values())
            )

    def forget_old(self, now_s: float) -> None:
        """Forgets what is past its time or takes too much room: texts before answers."""
        for group in self._texts.take_old(now_s):
            group.members.clear()
        for group in self._answers.take_old(now_s):
            self._forget(group)
            group.members.clear()

    def _forget(self, group: SettledGroup) -> None:
        self._answers.remove(group)
        self._texts.remove(group)
        del self._by_texts[self._texts_of.pop(group)]
        groups = self._by_key[group.key]
        del groups[group]
        if not groups:
            del self._by_key[group.key]

    def knows(self, key: str) -> bool:
        return key in self._by_key

    def find_origin(self, cohort: Cohort, *, only_lost: bool) -> Origin | None:
        """The latest group of which all members of a cohort are retries or late siblings.

        Args:
            only_lost: a member is a retry only of an answer that did not reach its client. This
                does not hold for a group that lacks siblings: a late one that has an equal text
                gets the answer that was given.
        """
        for group in reversed(self._by_key.get(cohort.key, ())):
            num_missing = self._group_size - len(group.members) if group.members else 0
            if only_lost and not num_missing and group.is_delivered:
                continue  # the common case
            retries, late = _match(cohort.slots, group, only_lost=only_lost and not num_missing)
            if len(late) <= num_missing:
                return Origin(group, retries, late)
        return None


def _match(
    slots: Sequence[Slot], group: SettledGroup, *, only_lost: bool
) -> tuple[list[tuple[Slot, GivenAnswer]], list[Slot]]:
    """Slots that ask for an answer of the group again, each with that answer, and the others."""
    free: dict[str, list[GivenAnswer]] = {}
    # Of equal texts, the answers that are known to be lost are taken first: from the end.
    for answer in sorted(group.answers, key=lambda one: not one.is_delivered):
        if not (only_lost and answer.is_delivered):
            free.setdefault(answer.fingerprint, []).append(answer)
    retries: list[tuple[Slot, GivenAnswer]] = []
    others = []
    for slot in slots:
        if found := free.get(slot.member.fingerprint):
            retries.append((slot, found.pop()))
        else:
            others.append(slot)
    return retries, others
