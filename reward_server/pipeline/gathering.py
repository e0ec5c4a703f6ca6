"""The cohorts that are not settled yet, and who joins which."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from reward_server.pipeline.cohort import Cohort, Member, Outdated, Slot, answer_with_error
from reward_server.pipeline.kept import Kept
from reward_server.pipeline.waiting import Client


class Gathering:
    """Cohorts that lack members or are being settled. Not safe to use from several threads at
    once."""

    def __init__(self, group_size: int, max_chars: int) -> None:
        """
        Args:
            max_chars: characters kept of cohorts for which nobody waits.
        """
        self._group_size = group_size
        self._by_key: dict[str, list[Cohort]] = {}
        self._abandoned: Kept[Cohort] = Kept(max_chars)
        """Open cohorts for which nobody waits."""
        self.num_retries = 0
        """Members that took their place again."""

    def __iter__(self) -> Iterator[Cohort]:
        return (cohort for cohorts in self._by_key.values() for cohort in cohorts)

    def place(self, members: Sequence[Member], client: Client) -> tuple[list[Slot], list[Cohort]]:
        """Gives each member a slot. Returns also the cohorts that this completes; they are not open
        any more.

        The members of a cohort were all scored with the same weights. The requests whose members
        were scored with older ones lose all slots of open cohorts, and get `Outdated`.

        Raises:
            Outdated: this request is one of them. It gets no slot.
        """
        whole = self.find_whole(members)
        self._agree_on_weights([one for i, one in enumerate(members) if i not in whole])
        complete: dict[Cohort, None] = {}
        slots = []
        for index, member in enumerate(members):
            if cohort := whole.get(index):
                slots.append(cohort.add(member, client))
                complete[cohort] = None
                continue
            slots.append(slot := self._place_one(member, client))
            slot.is_alone = len(members) == 1
            cohort = slot.cohort
            if cohort.is_open and len(cohort.slots) == self._group_size:
                cohort.is_open = False
                complete[cohort] = None
        return slots, list(complete)

    def find_whole(self, members: Sequence[Member]) -> dict[int, Cohort]:
        """A new cohort for each member, by index, all of whose siblings are in the request."""
        by_key: dict[str, list[int]] = {}
        for index, member in enumerate(members):
            by_key.setdefault(member.key, []).append(index)
        whole: dict[int, Cohort] = {}
        for key, indices in by_key.items():
            for start in range(0, len(indices) - self._group_size + 1, self._group_size):
                cohort = Cohort(key, is_open=False, is_whole=True)
                whole |= dict.fromkeys(indices[start : start + self._group_size], cohort)
        return whole

    def _agree_on_weights(self, members: Sequence[Member]) -> None:
        """Ends the open cohorts of these members' siblings that were scored with older weights.

        Raises:
            Outdated: siblings were scored with newer weights.
        """
        found = [(one, self._find_open(one.key)) for one in members]
        known = [(one.weights_loaded_at_s, cohort) for one, cohort in found if cohort]
        if any(loaded_at_s < cohort.weights_loaded_at_s for loaded_at_s, cohort in known):
            raise Outdated
        for loaded_at_s, cohort in known:
            if cohort.is_open and loaded_at_s > cohort.weights_loaded_at_s:
                self._give_up(cohort)

    def _give_up(self, cohort: Cohort) -> None:
        """Ends an open cohort whose members must be scored again. Each of their requests scores all
        of its open rollouts again. So it loses its slots of other open cohorts too."""
        self.remove(cohort)
        answer_with_error(cohort.slots, Outdated())
        clients = {slot.client for slot in cohort.slots if slot.client and not slot.is_alone}
        if not clients:  # so with OpenRLHF: there may be thousands of open cohorts
            return
        for other in [one for one in self if one.is_open]:
            lost = [slot for slot in other.slots if slot.client in clients]
            answer_with_error(lost, Outdated())
            other.slots = [slot for slot in other.slots if slot not in lost]
            if not other.slots:
                self.remove(other)

    def _find_open(self, key: str) -> Cohort | None:
        """The cohort that the next member joins. There is one at most."""
        return next((one for one in self._by_key.get(key, ()) if one.is_open), None)

    def _place_one(self, member: Member, client: Client) -> Slot:
        cohorts = self._by_key.setdefault(member.key, [])
        for slot in (slot for cohort in cohorts for slot in cohort.slots):
            is_same = slot.member.fingerprint == member.fingerprint
            if is_same and slot.can_be_retaken_by(client):
                slot.client = client
                self._abandoned.remove(slot.cohort)
                self.num_retries += 1
                return slot
        if (cohort := self._find_open(member.key)) is None:
            cohort = Cohort(member.key)
            cohorts.append(cohort)
        cohort.last_joined_s = time.monotonic()
        self._abandoned.remove(cohort)
        return cohort.add(member, client)

    def leave(self, slots: Sequence[Slot], client: Client, until_s: float) -> None:
        """Notes that a request does not wait any more.

        Args:
            until_s: when (monotonic) a cohort is dropped if nobody waits for it now.
        """
        for slot in slots:
            if slot.client is client:
                slot.client = None
            if slot.cohort.is_open and not slot.cohort.num_waiting:
                self._abandoned.put(slot.cohort, until_s, slot.cohort.num_chars)

    def drop_old(self, now_s: float) -> None:
        """Drops cohorts for which nobody has waited for too long, or which take too much room."""
        for cohort in self._abandoned.take_old(now_s):
            self.remove(cohort)

    def remove(self, cohort: Cohort) -> None:
        """Ends a cohort: it is settled, or gone."""
        cohort.is_open = False
        self._abandoned.remove(cohort)
        cohorts = self._by_key.get(cohort.key, [])
        if cohort in cohorts:
            cohorts.remove(cohort)
        if not cohorts:
            self._by_key.pop(cohort.key, None)
