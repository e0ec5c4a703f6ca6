"""Computes the rewards of a reward log again under a reward file: `rescore --reward FILE.toml`.

If the reward compares rollouts, each group is settled as the server would have settled it:
1. Rollouts with the same `group` in the log are a group. One that was sent and logged again after
   its group was complete gets the same reward again. Any other is an error: `group_size` is smaller
   than in the run.
   In a log without groups, rollouts with the same prompt and label are a group. It takes
   `group_size` rollouts in the order of the log; the next one starts another group.
2. A rollout waits for its siblings while the next 16,384 rollouts are read, or 268 million
   characters of them. Then, and at the log's end, its group is settled with those that came.
3. A rollout of which no sibling came has no reward: the server gives it none either. It is left out
   and counted.
4. In mode "eval", the reward is the correctness. Every term is 0, and there are no groups.

Memory use does not grow with the length of the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from sar.decision import Decision
from sar.grading.label import LabelError
from sar.read_ahead import read_ahead
from sar.rescore import Judged, Rescored, RescoreError
from sar.reward import Reward
from sar.terms.base import Sample, Term, TermError
from sar.terms.composition import Composition

_MAX_WAITING = 1 << 14
_MAX_WAITING_CHARS = 1 << 28
# Complete groups that are remembered for rollouts that were sent again.
_MAX_COMPLETE = 1 << 11
# Rollouts whose remote terms are asked for at once. Each such term has a limit of its own.
_NUM_THREADS = 64


@dataclass(eq=False)
class _Rollout:
    """A rollout that waits for its siblings, or for rollouts that were logged before it."""

    judged: Judged
    sample: Sample | None
    """None in mode "eval"."""
    scores: Mapping[str, float]
    """Values of the terms that look at one rollout alone."""
    group: _Group | None = None
    """The group in which it waits. None once it is settled."""
    rescored: Rescored | None = None
    """None until it is settled, and if it is left out."""

    @property
    def decision(self) -> Decision:
        """As it was logged."""
        return self.judged.logged.decision

    @property
    def num_chars(self) -> int:
        return len(self.decision.prompt) + len(self.decision.response)

    def settle(self, value: float, terms: Mapping[str, float], group_id: str) -> None:
        judged = self.judged
        reward = Reward(value, judged.verdict, self.decision.likelihood, terms)
        after = self.decision.with_reward(reward, judged.grader, judged.mode, group=group_id)
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
            max_waiting_chars: characters of their prompts and responses.
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
        # Reward and terms by group id and hash of the response.
        self._complete: dict[str, dict[int, tuple[float, Mapping[str, float]]]] = {}

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
            rollout.settle(rollout.judged.verdict.correctness, rollout.scores, group_id="")
        elif group_size is None:
            self._settle([rollout], [rollout.sample], rollout.decision.group)
        elif not self._settle_again(rollout):
            key = rollout.decision.group or (rollout.sample.prompt, rollout.sample.label)
            rollout.group = self._open.setdefault(key, _Group(key))
            rollout.group.rollouts.append(rollout)
            if len(rollout.group.rollouts) == group_size:
                self._close(rollout.group)

    def _close(self, group: _Group) -> None:
        """Settles a group with the rollouts that came."""
        del self._open[group.key]
        rollouts = group.rollouts
        samples = [one.sample for one in rollouts if one.sample]
        if len(rollouts) == 1:
            self.num_left_out += 1
        else:
            self.num_groups += 1
            self.num_incomplete += len(rollouts) != self.composition.group_size
            first = rollouts[0].decision
            # Unique in the output, like an id of the server's.
            own_id = f"{first.request_id}/{self.num_groups}"
            self._settle(rollouts, samples, first.group or own_id)
            if first.group and len(rollouts) == self.composition.group_size:
                self._remember(first.group, rollouts)
        for one in rollouts:
            one.group = one.sample = None

    def _remember(self, group_id: str, rollouts: Sequence[_Rollout]) -> None:
        self._complete[group_id] = {
            hash(one.decision.response): (one.rescored.after.reward, one.rescored.after.terms)
            for one in rollouts
            if one.rescored
        }
        if len(self._complete) > _MAX_COMPLETE:
            del self._complete[next(iter(self._complete))]

    def _settle_again(self, rollout: _Rollout) -> bool:
        """Settles a rollout that was sent again after its group was complete. False if it was not.

        Raises:
            RescoreError: it is no such rollout, but its group is complete.
        """
        group_id = rollout.decision.group
        if group_id not in self._complete:
            return False
        settled = self._complete[group_id].get(hash(rollout.decision.response))
        if settled is None:
            raise RescoreError(
                f"{rollout.judged.logged.place}: its group has more than "
                f"{self.composition.group_size} rollouts; set group_size to the run's"
            )
        rollout.settle(*settled, group_id)
        return True

    def _settle(
        self, rollouts: Sequence[_Rollout], samples: Sequence[Sample], group_id: str
    ) -> None:
        try:
            scores = [one.scores for one in rollouts]
            all_terms = self.composition.score_group(samples, scores)
            values = self.composition.combine(samples, all_terms)
        except TermError as error:
            place, num_siblings = rollouts[0].judged.logged.place, len(rollouts) - 1
            siblings = f" and {num_siblings} siblings" if num_siblings else ""
            raise RescoreError(f"{place}{siblings}: {error}") from error
        for rollout, value, terms in zip(rollouts, values, all_terms, strict=True):
            rollout.settle(value, terms, group_id)

    def _release_first(self) -> Iterator[Rescored]:
        """The first of the rollouts that wait, unless it is left out."""
        first = self._waiting.popleft()
        self._num_chars -= first.num_chars
        if first.group:
            self._close(first.group)
        if first.rescored:
            yield first.rescored


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
