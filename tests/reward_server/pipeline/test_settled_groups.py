"""The groups that are remembered for a while."""

from __future__ import annotations

import time
from typing import Any

from reward_server.pipeline.cohort import Cohort, GivenAnswer, Member, Settled, Slot
from reward_server.pipeline.settled_groups import SettledGroup, SettledGroups

NUM_GROUPS = 3000


class CountingGroup(SettledGroup):
    num_reads = 0

    @property
    def fingerprints(self) -> tuple[str, ...]:
        CountingGroup.num_reads += 1
        return super().fingerprints


def test_a_run_with_one_prompt_has_many_groups_of_one_key() -> None:
    """Each new group is compared with no other one: the lock is held meanwhile."""
    groups = SettledGroups(2, max_chars=100)
    until_s = time.monotonic() + 1000
    for number in range(NUM_GROUPS):
        answers = [GivenAnswer(f"{number} {one}", Settled(1.0, {})) for one in range(2)]
        groups.add(CountingGroup("key", str(number), answers), until_s)
    assert CountingGroup.num_reads == NUM_GROUPS
    assert groups.knows("key")


def find(groups: SettledGroups, *texts: str) -> str | None:
    """The name of the group to which rollouts with these texts belong."""
    sample: Any = None
    cohort = Cohort("key")
    cohort.slots = [Slot(Member("key", text, sample, {}), cohort, None) for text in texts]
    origin = groups.find_origin(cohort, only_lost=False)
    return origin.group.name if origin else None


def test_a_group_takes_the_place_of_one_with_the_same_texts() -> None:
    groups = SettledGroups(2, max_chars=100, max_answers=4)
    until_s = time.monotonic() + 1000

    def make(name: str, *texts: str) -> SettledGroup:
        return SettledGroup("key", name, [GivenAnswer(text, Settled(1.0, {})) for text in texts])

    first = make("first", "a")
    groups.add(first, until_s)
    first.answers.append(GivenAnswer("b", Settled(1.0, {})))  # a sibling that came late
    groups.add(first, until_s)
    assert find(groups, "a", "b") == "first"
    groups.add(make("second", "b", "a"), until_s)
    groups.add(make("third", "b", "c"), until_s)
    groups.forget_old(time.monotonic())  # three groups would be too many
    assert [find(groups, *texts) for texts in ("ab", "bc", "ac")] == ["second", "third", None]
    assert find(groups, "b") == "third", "the latest"
    groups.add(make("fourth", "d", "e"), until_s)
    groups.forget_old(time.monotonic())
    assert [find(groups, *texts) for texts in ("ab", "bc", "de")] == [None, "third", "fourth"]
    groups.forget_old(until_s)
    assert not groups.knows("key")
