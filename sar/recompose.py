"""Computes the rewards of a reward log again under a reward file: `rescore --reward FILE.toml`.

If the reward compares rollouts, each group is settled as the server would have settled it:
1. Rollouts with the same `group` in the log are a group. Each is compared with the seats below its
   `num_members`, so not with siblings that came later. Lines with the same seat are one rollout,
   which was sent again; each gets its reward. `num_members` above `group_size` is an error: the
   groups of the run were larger.
   In a log without groups, rollouts with the same prompt and label are a group. It takes
   `group_size` rollouts in the order of the log; the next one starts another group.
2. A rollout waits for its siblings while the next 16,384 rollouts are read, or 268 million
   characters of them. Then, and at the log's end, its group is settled with those that came.
3. A rollout of which no sibling came has no reward: the server gives it none either. It is left out
   and counted.
4. In mode "eval", the reward is the correctness. Every term is 0, and there are no groups.

Memory use does not grow with the length of the log: of groups that were settled, the latest 2048
are remembered, with 268 million characters of the incomplete ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from sar.decision import Decision, GroupPlace
from sar.grading.label import LabelError
from sar.read_ahead import read_ahead
from sar.rescore import Judged, Rescored, RescoreError
from sar.reward import Reward
from sar.seats import Member, Scored, Seat, SeatedGroup, SeatedGroups
from sar.terms.base import Sample, Term, TermError
from sar.terms.composition import Composition

_MAX_WAITING = 1 << 14
_MAX_WAITING_CHARS = 1 << 28
# Settled groups that are remembered for rollouts that were sent again, or came late.
_MAX_SETTLED = 1 << 11
# Rollouts whose remote terms are asked for at once. Each such term has a limit of its own.
_NUM_THREADS = 64


@dataclass(eq=False)
class _Rollout:
    """A rollout that waits for its siblings, or for rollouts that were logged before it."""

    judged: Judged
    sample: Sample | None
    """None in mode "eval", and once the rollout was compared."""
    scores: Mapping[str, float]
    """Values of the terms that look at one rollout alone."""
    group: _Group | None = None
    """The group in which it waits. None once it is settled."""
    rescored: Rescored | None = None
    """None until it is settled, and if it is left out."""
    seat: Seat | None = None
    """None if the log does not say."""

    @property
    def decision(self) -> Decision:
        """As it was logged."""
        return self.judged.logged.decision

    @property
    def num_chars(self) -> int:
        decision = self.decision
        return len(decision.prompt) + len(decision.response) + len(str(decision.label))

    @property
    def member(self) -> Member:
        assert self.sample is not None
        return Member(self.sample, self.scores)

    def settle(self, scored: Scored, place: GroupPlace | None = None) -> None:
        """
        Args:
            place: None: as it was logged.
        """
        judged = self.judged
        value, terms = scored
        reward = Reward(value, judged.verdict, self.decision.likelihood, terms)
        after = self.decision.with_reward(reward, judged.grader, judged.mode, place=place)
        self.rescored = Rescored(judged.logged.place, self.decision, after)


@dataclass(eq=False)
class _Group:
    key: Hashable
    rollouts: list[_Rollout] = field(default_factory=list)


class Recomposer:
    """Computes the rewards of one log again under another reward, and counts its groups."""

    def __init__(
        self,
        composition: Composition,
        *,
        max_waiting: int = _MAX_WAITING,
        max_waiting_chars: int = _MAX_WAITING_CHARS,
    ) -> None:
        """
        Args:
            max_waiting: rollouts that may wait for siblings, or behind one that does.
            max_waiting_chars: characters of their prompts and responses. As many of incomplete
                groups are kept for siblings that came late.
        """
        self.composition = composition
        self.num_groups = 0
        """Groups that were settled, incomplete ones included."""
        self.num_incomplete = 0
        """Groups that were settled with fewer than `group_size` rollouts."""
        self.num_left_out = 0
        """Rollouts without a reward, as no sibling came."""
        self._max_waiting = max_waiting
        self._max_waiting_chars = max_waiting_chars
        self._waiting: deque[_Rollout] = deque()
        self._num_chars = 0
        self._open: dict[Hashable, _Group] = {}
        self._open_seated: dict[Hashable, _Group] = {}  # by group id
        self._seated = SeatedGroups(_MAX_SETTLED, max_waiting_chars)

    def recompose(self, all_judged: Iterable[Judged]) -> Iterator[Rescored]:
        """The decisions with their new rewards, in the order of the log.

        Raises:
            RescoreError: a label cannot be parsed, or a term failed.
        """
        with closing(_score_all(all_judged, self.composition)) as rollouts:
            for rollout in rollouts:
                self._waiting.append(rollout)
                self._num_chars += rollout.num_chars
                self._place(rollout)
                while self._waiting and (self._waiting[0].group is None or self._is_full):
                    yield from self._release_first()
        while self._waiting:
            yield from self._release_first()

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) > self._max_waiting or self._num_chars > self._max_waiting_chars

    def _place(self, rollout: _Rollout) -> None:
        """Settles a rollout that is compared with no other, or puts it into its group."""
        group_size = self.composition.group_size
        if rollout.sample is None:
            rollout.settle((rollout.judged.verdict.correctness, rollout.scores))
        elif group_size is None:
            (scored,) = self._score_members([rollout.member], rollout)
            rollout.settle(scored)
        elif seat := _find_seat(rollout, group_size):
            self._seat(rollout, seat)
        else:
            key = rollout.sample.prompt, rollout.sample.label
            rollout.group = self._open.setdefault(key, _Group(key))
            rollout.group.rollouts.append(rollout)
            if len(rollout.group.rollouts) == group_size:
                self._close(rollout.group)

    def _seat(self, rollout: _Rollout, seat: Seat) -> None:
        """Puts a rollout into the group that the log names, and settles those whom it completes."""
        group_id = rollout.decision.group
        if scored := self._seated.find(group_id).scored.get(seat):
            rollout.settle(scored)
            return
        rollout.seat = seat
        rollout.group = self._open_seated.setdefault(group_id, _Group(group_id))
        rollout.group.rollouts.append(rollout)
        self._settle_seated(rollout.group, can_wait=True)

    def _settle_seated(self, group: _Group, *, can_wait: bool) -> None:
        """Settles those rollouts of a group whose siblings have all come.

        Args:
            can_wait: False: settles all of them, compared with the siblings that came.
        """
        seated = self._seated.find(group.key)
        by_seat: dict[Seat, list[_Rollout]] = {}
        for one in group.rollouts:
            assert one.seat is not None
            by_seat.setdefault(one.seat, []).append(one)
        members = dict(seated.members)
        for seat, (first, *_) in by_seat.items():
            members.setdefault(seat.number, first.member)
        is_changed = False
        for num_members in sorted({seat.num_members for seat in by_seat}):
            numbers = sorted(number for number in members if number < num_members)
            if len(numbers) < num_members and can_wait:
                continue
            is_changed = True
            asked = {seat: by_seat[seat] for seat in by_seat if seat.num_members == num_members}
            there = {number: members[number] for number in numbers}
            self._settle_seats(seated, asked, there)
        if not is_changed:
            return
        is_whole = len(members) == self.composition.group_size
        seated.members = {} if is_whole else members
        self._seated.keep(group.key, seated)
        group.rollouts = [one for one in group.rollouts if one.group]
        if not group.rollouts:
            del self._open_seated[group.key]

    def _settle_seats(
        self,
        seated: SeatedGroup,
        asked: Mapping[Seat, Sequence[_Rollout]],
        there: Mapping[int, Member],
    ) -> None:
        """Settles rollouts that are compared with the same members.

        Args:
            asked: the rollouts by seat; several if one was sent again.
            there: the members by their seat's number.
        """
        rollouts = [one for same in asked.values() for one in same]
        if len(there) == 1:
            self.num_left_out += len(rollouts)
        else:
            if not seated.scored:
                self.num_groups += 1
                self.num_incomplete += len(there) != self.composition.group_size
            scored = self._score_members(list(there.values()), rollouts[0])
            by_number = dict(zip(there, scored, strict=True))
            for seat, same in asked.items():
                seated.scored[seat] = by_number[seat.number]
                for one in same:
                    one.settle(by_number[seat.number])
        for one in rollouts:
            one.group = one.sample = None

    def _close(self, group: _Group) -> None:
        """Settles a group with the rollouts that came."""
        del self._open[group.key]
        rollouts = group.rollouts
        if len(rollouts) == 1:
            self.num_left_out += 1
        else:
            self.num_groups += 1
            self.num_incomplete += len(rollouts) != self.composition.group_size
            scored = self._score_members([one.member for one in rollouts], rollouts[0])
            # Unique in the output, like an id of the server's.
            own_id = f"{rollouts[0].decision.request_id}/{self.num_groups}"
            for seat, (one, own) in enumerate(zip(rollouts, scored, strict=True)):
                one.settle(own, GroupPlace(own_id, seat, len(rollouts)))
        for one in rollouts:
            one.group = one.sample = None

    def _score_members(self, members: Sequence[Member], one_of_them: _Rollout) -> list[Scored]:
        """Rewards of rollouts that are compared with each other.

        Raises:
            RescoreError: a term failed. It names the line of `one_of_them`.
        """
        samples = [one.sample for one in members]
        try:
            all_terms = self.composition.score_group(samples, [one.scores for one in members])
            values = self.composition.combine(samples, all_terms)
        except TermError as error:
            place, num_siblings = one_of_them.judged.logged.place, len(members) - 1
            siblings = f" and {num_siblings} siblings" if num_siblings else ""
            raise RescoreError(f"{place}{siblings}: {error}") from error
        return list(zip(values, all_terms, strict=True))

    def _release_first(self) -> Iterator[Rescored]:
        """The first of the rollouts that wait, unless it is left out."""
        first = self._waiting.popleft()
        self._num_chars -= first.num_chars
        if first.group and first.seat:
            self._settle_seated(first.group, can_wait=False)
        elif first.group:
            self._close(first.group)
        if first.rescored:
            yield first.rescored


def _find_seat(rollout: _Rollout, group_size: int) -> Seat | None:
    """The rollout's seat. None if it was logged without a group.

    Raises:
        RescoreError: no group of this size has such a seat.
    """
    decision, place = rollout.decision, rollout.judged.logged.place
    if not decision.group:
        return None
    if decision.seat is None or decision.num_members is None:
        raise RescoreError(f"{place}: a group without seat and num_members")
    if decision.num_members > group_size:
        raise RescoreError(
            f"{place}: its group has more than {group_size} rollouts; set group_size to the run's"
        )
    if decision.seat >= decision.num_members:
        raise RescoreError(
            f"{place}: seat {decision.seat} is not below num_members, {decision.num_members}"
        )
    return Seat(decision.seat, decision.num_members)


def _score_all(
    all_judged: Iterable[Judged], composition: Composition
) -> Generator[_Rollout, None, None]:
    """Computes the terms that look at one rollout alone. Remote ones are asked several at once.

    Raises:
        RescoreError: a label cannot be parsed, or a term failed.
    """
    if not any(isinstance(one.term, Term) and one.term.is_remote for one in composition.terms):
        for judged in all_judged:
            yield _score(judged, composition)
        return
    threads = ThreadPoolExecutor(_NUM_THREADS)
    try:
        submitted = (threads.submit(_score, judged, composition) for judged in all_judged)
        for future in read_ahead(submitted, 2 * _NUM_THREADS):
            yield future.result()
    finally:
        threads.shutdown(cancel_futures=True)


def _score(judged: Judged, composition: Composition) -> _Rollout:
    if judged.mode == "eval":
        return _Rollout(judged, None, {one.name: 0.0 for one in composition.terms})
    try:
        sample = judged.logged.decision.make_sample(judged.verdict, judged.grader)
        return _Rollout(judged, sample, composition.score(sample))
    except (LabelError, TermError) as error:
        raise RescoreError(f"{judged.logged.place}: {error}") from error
