"""Holds the answers of a prompt's rollouts until all of them are there.

OpenRLHF sends each rollout in a request of its own, and waits for all rollouts of a prompt at once.
So a rollout is scored when it arrives, and only its answer is held. The rules:

1. A cohort is settled when `group_size` members are there. Their rewards are computed together.
   More members of the same key start another cohort.
2. A request that brings all siblings is settled by itself, at once. One that brings some of them
   joins like requests with one rollout.
3. A retry is the same payload once more. It takes the place of its first attempt if whoever waited
   there has gone. Otherwise it is a sibling with an equal text.
4. Shortly before the first waiting request times out, what is there is settled, if that is two or
   more ("incomplete"). One alone gets 503.
5. A member whose client has gone stays a member, because its client will ask again. A cohort for
   which nobody waits any more is dropped after twice the request timeout.
6. All members of a cohort were scored with the same weights. If new weights come meanwhile, those
   that were scored with the old ones are scored again: `join` raises `Outdated`. Those of the
   request's rollouts whose groups were complete keep their rewards.
7. A term that fails is an error for the members of its group only. They can be sent again.

A settled group is remembered for twice the request timeout. When its prompt comes again, that can
be a retry whose answer was lost, a sibling that an incomplete group lacked, or the next epoch, also
with equal texts. The new arrival opens a cohort like any other. These rules tell what it is:

8. If nobody joins for `_GRACE_S`, and each member of the new cohort asks again for an answer that
   found its client gone, or takes the place of a missing sibling: they belong to the old group. A
   retry gets the answer that was given. A late sibling is settled together with the old members,
   whose answers stay, whatever the weights are by now. While siblings are missing, an equal text
   gets the answer that was given.
9. An answer can also be lost although its client seemed to be there. So at the deadline of rule 4,
   a member can ask again for any answer of the old group. Before that it waits for new siblings,
   so that a new group does not lose a member that has an equal text.

Nothing polls: the waiting requests wake when something is due. Terms may be slow. They run in
threads of this module, and never under the lock. Admission limits the texts of the requests that
wait here; `_MAX_CHARS` limits the texts that stay when a request has left. A request must give back
its engine before it joins. Otherwise new weights could wait for this request, and its siblings for
the new weights.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from reward_server.errors import ClientGone, NotReady, ScoringFailed
from reward_server.pipeline.cohort import (
    Cohort,
    GivenAnswer,
    Member,
    Outdated,
    Settled,
    Slot,
    answer_with_error,
    compute_rewards,
)
from reward_server.pipeline.gathering import Gathering
from reward_server.pipeline.settled_groups import Origin, SettledGroup, SettledGroups
from reward_server.pipeline.waiting import Client, Deadline
from sar.decision import GroupPlace
from sar.terms.composition import Composition

__all__ = ["Cohorts", "CohortsState", "Member", "Outdated", "Settled"]

# Rule 8: retries of a group come this close together, and so do the rollouts of a new one.
_GRACE_S = 2.0
# Characters kept of rollouts for which nobody waits. As many are kept of incomplete groups.
_MAX_CHARS = 1 << 26
# A term that compares rollouts may be slow, but rarely leaves the GIL to others.
_NUM_THREADS = 2
_MIN_INCOMPLETE = 2


@dataclass(frozen=True)
class CohortsState:
    """What the cohorts hold, and what they have done since the start."""

    num_open: int
    """Cohorts that lack members, or are being settled."""
    num_held: int
    """Rollouts whose requests wait for them."""
    num_chars: int
    """Characters of all texts kept, also those for which no request waits."""
    num_settled: int
    """Groups that got their rewards, the incomplete ones included."""
    num_incomplete: int
    num_retries: int
    """Rollouts that came again and were not counted twice."""


class Cohorts:
    """The groups of all requests. Safe to use from many threads and greenlets."""

    def __init__(
        self,
        composition: Composition,
        *,
        grace_s: float = _GRACE_S,
        max_chars: int = _MAX_CHARS,
    ) -> None:
        """
        Args:
            composition: its `group_size` is set.
        """
        assert composition.group_size is not None
        self._group_size = composition.group_size
        self._composition = composition
        self._grace_s = grace_s
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="cohorts")
        self._lock = threading.Lock()  # guards all that follows; never held while terms run
        self._gathering = Gathering(composition.group_size, max_chars)
        self._settled = SettledGroups(composition.group_size, max_chars)
        self._retention_s = 0.0
        self._is_closed = False
        self._num_settled = 0
        self._num_incomplete = 0
        self._num_asked_again = 0
        self._num_computing = 0

    def join(self, members: Sequence[Member], client: Client) -> list[Settled]:
        """The rewards of one request's rollouts, when their groups are settled. Blocks until then.

        Raises:
            Outdated: siblings were scored with newer weights. Score the rollouts that it has no
                reward of again, and join again with these.
            ClientGone: the client has left.
            NotReady: too few siblings came in time, or the server is stopping.
            RequestTimedOut: a term took too long.
            ScoringFailed: a term failed.
        """
        if client.is_gone():
            raise ClientGone("the client has gone")
        with self._lock:
            slots, complete = self._place(members, client)
        for cohort in complete:
            self._threads.submit(self._settle, cohort)
        is_answered = False
        try:
            settled = self._wait(slots, client)
            is_answered = True
        except Outdated as outdated:
            outdated.settled = self._wait_for_complete(slots, client)
            raise
        finally:
            with self._lock:
                self._leave(slots, client, is_answered=is_answered)
        return settled

    def close(self) -> None:
        """Answers all held requests with `NotReady`, so that their clients ask the next server.

        Groups that are complete still get their rewards. Call it when no rollout is being scored
        any more: those could complete groups.
        """
        with self._lock:
            self._is_closed = True
            is_open = [cohort for cohort in self._gathering if cohort.is_open]
            for cohort in is_open:
                self._gathering.remove(cohort)
        for cohort in is_open:
            answer_with_error(cohort.slots, NotReady("the server is stopping"))

    @property
    def state(self) -> CohortsState:
        with self._lock:
            self._forget_old()
            unsettled = list(self._gathering)
            return CohortsState(
                num_open=len(unsettled),
                num_held=sum(cohort.num_waiting for cohort in unsettled),
                num_chars=sum(one.num_chars for one in unsettled) + self._settled.num_chars,
                num_settled=self._num_settled,
                num_incomplete=self._num_incomplete,
                num_retries=self._gathering.num_retries + self._num_asked_again,
            )

    @property
    def is_computing(self) -> bool:
        """Whether a thread computes terms, perhaps for requests that do not wait any more."""
        return self._num_computing > 0

    # What follows, up to `_wait`, runs under the lock.

    def _place(self, members: Sequence[Member], client: Client) -> tuple[list[Slot], list[Cohort]]:
        self._forget_old()
        self._retention_s = 2 * client.deadline.timeout_s  # the same for all requests
        if self._is_closed and len(self._gathering.find_whole(members)) < len(members):
            raise NotReady("the server is stopping")
        return self._gathering.place(members, client)

    def _leave(self, slots: Sequence[Slot], client: Client, *, is_answered: bool) -> None:
        if is_answered and not client.is_gone():
            for slot in slots:
                if slot.given:
                    slot.given.is_delivered = True
        self._gathering.leave(slots, client, time.monotonic() + self._retention_s)

    def _forget_old(self) -> None:
        now_s = time.monotonic()
        self._settled.forget_old(now_s)
        self._gathering.drop_old(now_s)

    def _attend(
        self, slots: Sequence[Slot], client: Client
    ) -> tuple[list[Callable[[], object]], float]:
        """What is due for the cohorts of a waiting request, to be done without the lock, and when
        (monotonic) something is due again.

        Raises:
            ClientGone: the client has gone at its deadline, or sent its rollout again.
        """
        now_s = time.monotonic()
        ends_at_s = now_s + client.deadline.left_s - _margin_s(client.deadline)
        is_last = now_s >= ends_at_s
        is_open = [slot for slot in slots if slot.cohort.is_open]
        if any(slot.client is not client for slot in is_open):
            raise ClientGone("the client has gone, and has sent its rollout again")
        if is_open and is_last and client.is_gone():
            raise ClientGone("the client has gone")
        due: list[Callable[[], object]] = []
        wake_at_s = math.inf
        for cohort in dict.fromkeys(slot.cohort for slot in is_open):
            if is_last:
                due.append(self._end(cohort, client.deadline))
                continue
            wake_at_s = min(wake_at_s, ends_at_s)
            if self._settled.knows(cohort.key):
                grace_ends_s = cohort.last_joined_s + self._grace_s
                if now_s < grace_ends_s:
                    wake_at_s = min(wake_at_s, grace_ends_s)
                elif origin := self._settled.find_origin(cohort, only_lost=True):
                    due.append(self._trace_back(cohort, origin))
        return due, wake_at_s

    def _end(self, cohort: Cohort, deadline: Deadline) -> Callable[[], object]:
        """Ends a cohort whose members have not all come in time. Returns what is left to be done,
        without the lock."""
        if origin := self._settled.find_origin(cohort, only_lost=False):
            return self._trace_back(cohort, origin)
        if len(cohort.slots) >= _MIN_INCOMPLETE:
            cohort.is_open = False
            return partial(self._threads.submit, self._settle, cohort)
        self._gathering.remove(cohort)
        waited_s = deadline.timeout_s - _margin_s(deadline)
        error = NotReady(
            f"no sibling of a rollout came within {waited_s:g} s: send {self._group_size} rollouts "
            "of each prompt and label, or a multiple (group_size in --reward)"
        )
        return partial(answer_with_error, cohort.slots, error)

    def _trace_back(self, cohort: Cohort, origin: Origin) -> Callable[[], object]:
        """Ends a cohort whose members belong to a group that is settled already. Returns what is
        left to be done, without the lock."""
        self._gathering.remove(cohort)
        self._num_asked_again += len(origin.retries)
        there = dict(origin.group.members)
        free_seats = (seat for seat in range(self._group_size) if seat not in there)
        late = dict(zip(free_seats, origin.late, strict=False))
        # Their seats are taken, also while terms run.
        origin.group.members |= {seat: slot.member for seat, slot in late.items()}

        def answer() -> None:
            for slot, given in origin.retries:
                slot.given = given
                slot.answer.set_result(given.settled)
            if late:
                self._threads.submit(self._settle_late, origin.group, there, late)

        return answer

    # What follows runs without the lock, and takes it where it changes something.

    def _wait(self, slots: Sequence[Slot], client: Client) -> list[Settled]:
        """Waits for the answers, and does for the cohorts of these slots what is due."""
        settled = []
        wake_at_s = -math.inf
        for position, slot in enumerate(slots):
            while not slot.answer.done():
                if wake_at_s == math.inf:  # nothing is left to do but to wait
                    client.deadline.wait_for(slot.answer)
                elif time.monotonic() < wake_at_s:
                    client.deadline.wait_until(slot.answer, wake_at_s)
                else:
                    with self._lock:
                        due, wake_at_s = self._attend(slots[position:], client)
                    for act in due:
                        act()
            settled.append(slot.answer.result())
        return settled

    def _wait_for_complete(self, slots: Sequence[Slot], client: Client) -> dict[int, Settled]:
        """The rewards, by index, of an outdated request's rollouts whose groups are complete. The
        request has lost its slots of other groups."""
        settled = {}
        for index, slot in enumerate(slots):
            with suppress(Outdated):
                settled[index] = client.deadline.wait_for(slot.answer)
                if slot.given and not client.is_gone():
                    slot.given.is_delivered = True
        return settled

    def _settle(self, cohort: Cohort) -> None:
        """Computes the rewards of a cohort, which nobody can join any more."""
        is_incomplete = len(cohort.slots) < self._group_size
        name = uuid4().hex
        try:
            rewards = self._compute(cohort.members)
        except ScoringFailed as error:
            with self._lock:
                self._gathering.remove(cohort)
            answer_with_error(cohort.slots, error)
            return
        settled = [
            Settled(*reward, GroupPlace(name, seat, len(rewards)), is_incomplete)
            for seat, reward in enumerate(rewards)
        ]
        with self._lock:
            self._gathering.remove(cohort)
            self._num_settled += 1
            self._num_incomplete += is_incomplete
            if not cohort.is_whole:
                members = enumerate(cohort.members if is_incomplete else ())
                group = SettledGroup(cohort.key, name, [], dict(members))
                self._remember(group, cohort.slots, settled)
        for slot, one in zip(cohort.slots, settled, strict=True):
            slot.answer.set_result(one)

    def _settle_late(
        self,
        group: SettledGroup,
        there: Mapping[int, Member],
        late: Mapping[int, Slot],
    ) -> None:
        """Computes the rewards of siblings that came late, as if they had come in time.

        Args:
            there, late: by seat.
        """
        members = {**there, **{seat: slot.member for seat, slot in late.items()}}
        seats = sorted(members)
        slots = list(late.values())
        try:
            rewards = self._compute([members[seat] for seat in seats])
        except ScoringFailed as error:
            with self._lock:  # they can come again
                for seat in late:
                    group.members.pop(seat, None)
            answer_with_error(slots, error)
            return
        by_seat = dict(zip(seats, rewards, strict=True))
        num_members = seats[-1] + 1
        settled = [
            Settled(*by_seat[seat], GroupPlace(group.name, seat, num_members), incomplete=True)
            for seat in late
        ]
        with self._lock:
            self._remember(group, slots, settled)
        for slot, one in zip(slots, settled, strict=True):
            slot.answer.set_result(one)

    def _compute(self, members: Sequence[Member]) -> list[tuple[float, Mapping[str, float]]]:
        """What `compute_rewards` gives. It may take long, and is counted meanwhile."""
        with self._lock:
            self._num_computing += 1
        try:
            return compute_rewards(self._composition, members)
        finally:
            with self._lock:
                self._num_computing -= 1

    def _remember(
        self, group: SettledGroup, slots: Sequence[Slot], settled: Sequence[Settled]
    ) -> None:
        """Keeps the answers of a group for retries. Runs under the lock."""
        for slot, one in zip(slots, settled, strict=True):
            slot.given = GivenAnswer(slot.member.fingerprint, one)
            group.answers.append(slot.given)
        self._settled.add(group, time.monotonic() + self._retention_s)


def _margin_s(deadline: Deadline) -> float:
    """Seconds that terms and the answer may take after the last moment for siblings."""
    return max(0.05 * deadline.timeout_s, min(1.0, deadline.timeout_s / 4))
