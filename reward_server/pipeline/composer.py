"""Composes the rewards of a request from the terms of `--reward`.

Where a term is computed:
1. A quick one: at once, in the thread that serves connections.
2. One that waits for another server: in a thread of its own, from the moment the rollout is graded
   and scored. So many of them wait at the same time, and while the model scores other rollouts.
3. All others, and those that compare rollouts: in the intake's threads.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from uuid import uuid4

from reward_server.errors import ClientGone, ScoringFailed
from reward_server.pipeline.cohorts import Cohorts, Member, Settled
from reward_server.pipeline.intake import Intake, split_into_chunks
from reward_server.pipeline.waiting import Client, Waiting
from sar.grading.label import Label
from sar.terms.base import GroupTerm, Sample, Term, TermError
from sar.terms.composition import Composition, WeightedTerm

# Terms that wait for another server at once. Each has a limit of its own besides.
_NUM_REMOTE_THREADS = 64


class Composer:
    """What all requests share: the terms by where they are computed, and the groups that wait."""

    def __init__(self, composition: Composition, intake: Intake, waiting: Waiting) -> None:
        self.composition = composition
        self.intake = intake
        self.waiting = waiting
        alone = [one for one in composition.terms if isinstance(one.term, Term)]
        self.quick = _select(composition, [one for one in alone if _is_quick(one)])
        self.slow = _select(
            composition, [one for one in alone if not (_is_quick(one) or _is_remote(one))]
        )
        self.remote = [_select(composition, [one]) for one in alone if _is_remote(one)]
        self.compares = any(isinstance(one.term, GroupTerm) for one in composition.terms)
        """Whether a term compares rollouts. GDPO alone has groups without such a term."""
        self.cohorts = Cohorts(composition) if composition.group_size else None
        self.remote_threads = ThreadPoolExecutor(_NUM_REMOTE_THREADS, "remote-terms")

    def close(self) -> None:
        """Refuses the groups that wait for siblings: their clients ask again."""
        if self.cohorts is not None:
            self.cohorts.close()


def _select(composition: Composition, terms: Sequence[WeightedTerm]) -> Composition:
    return replace(composition, terms=tuple(terms))


def _is_quick(one: WeightedTerm) -> bool:
    return isinstance(one.term, Term) and one.term.is_quick and not one.term.is_remote


def _is_remote(one: WeightedTerm) -> bool:
    return isinstance(one.term, Term) and one.term.is_remote


@dataclass(frozen=True)
class _Rollout:
    """A rollout whose terms are computed; without any in mode "eval"."""

    sample: Sample
    query: str
    remote: list[Future[dict[str, float]]]

    @property
    def is_trained(self) -> bool:
        return self.sample.label.mode == "train"

    @property
    def key(self) -> tuple[str, Label]:
        """Equal for the rollouts of one group."""
        return self.sample.prompt, self.sample.label

    @property
    def num_chars(self) -> int:
        return len(self.sample.prompt) + len(self.sample.response)


class ComposedRewards:
    """The rewards of one request."""

    def __init__(self, composer: Composer, client: Client) -> None:
        self._composer = composer
        self._composition = composer.composition
        self._client = client
        self._rollouts: list[_Rollout] = []

    def add(self, sample: Sample, query: str) -> None:
        """Starts the terms of one rollout that wait for other servers."""
        rollout = _Rollout(sample, query, [])
        self._rollouts.append(rollout)
        for one in self._composer.remote if rollout.is_trained else ():
            value = self._composer.remote_threads.submit(self._score_remote, one, sample)
            rollout.remote.append(value)

    @property
    def samples(self) -> list[Sample]:
        return [one.sample for one in self._rollouts]

    def settle(self) -> list[Settled]:
        """The rewards of the added rollouts, in their order.

        Raises:
            ScoringFailed: a term failed.
            ClientGone, InvalidRequest, NotReady, RequestTimedOut: there is no reward.
        """
        try:
            settled = iter(self._settle([one for one in self._rollouts if one.is_trained]))
        except TermError as error:
            raise ScoringFailed(str(error)) from error
        return [
            next(settled) if one.is_trained else self._settle_eval(one.sample)
            for one in self._rollouts
        ]

    def cancel(self) -> None:
        """Drops the terms that are not computed yet."""
        for one in self._rollouts:
            for value in one.remote:
                value.cancel()

    def _settle_eval(self, sample: Sample) -> Settled:
        """In mode "eval", the reward is the correctness alone."""
        terms = dict.fromkeys((one.name for one in self._composition.terms), 0.0)
        return Settled(sample.verdict.correctness, terms)

    def _settle(self, rollouts: Sequence[_Rollout]) -> list[Settled]:
        scores = self._score(rollouts)
        samples = [one.sample for one in rollouts]
        if self._composer.cohorts is None:
            rewards = self._composition.combine(samples, scores)
            return [Settled(*one) for one in zip(rewards, scores, strict=True)]
        whole, rest = self._find_groups(rollouts)
        settled: dict[int, Settled] = {}
        for group in self._composer.waiting.in_turns(whole):
            settled |= zip(group, self._settle_group(group, samples, scores), strict=True)
        if rest:
            members = [_make_member(rollouts[index], scores[index]) for index in rest]
            joined = self._composer.cohorts.join(members, self._client)
            settled |= zip(rest, joined, strict=True)
        return [settled[index] for index in range(len(rollouts))]

    def _find_groups(self, rollouts: Sequence[_Rollout]) -> tuple[list[list[int]], list[int]]:
        """The indices of each group that is whole within the request, and of all others."""
        size = self._composition.group_size
        assert size is not None
        by_key: dict[tuple[str, Label], list[int]] = defaultdict(list)
        for index, one in enumerate(rollouts):
            by_key[one.key].append(index)
        whole, rest = [], []
        for indices in by_key.values():
            num_whole = len(indices) - len(indices) % size
            whole += [indices[start : start + size] for start in range(0, num_whole, size)]
            rest += indices[num_whole:]
        return whole, rest

    def _settle_group(
        self,
        group: Sequence[int],
        all_samples: Sequence[Sample],
        all_scores: Sequence[dict[str, float]],
    ) -> list[Settled]:
        samples = [all_samples[index] for index in group]
        scores = [all_scores[index] for index in group]
        if self._composer.compares:
            work = partial(self._composition.score_group, samples, scores)
            num_chars = sum(len(one.prompt) + len(one.response) for one in samples)
            scores = self._composer.intake.run(work, self._client, num_chars)
        rewards = self._composition.combine(samples, scores)
        name = uuid4().hex
        return [Settled(*one, group=name) for one in zip(rewards, scores, strict=True)]

    def _score(self, rollouts: Sequence[_Rollout]) -> list[dict[str, float]]:
        """The values of the terms that look at one rollout alone."""
        composer = self._composer
        slow: list[dict[str, float]] = []
        if composer.slow.terms:
            for chunk, num_chars in split_into_chunks(rollouts, lambda one: one.num_chars):
                work = partial(_score_all, composer.slow, [one.sample for one in chunk])
                slow += composer.intake.run(work, self._client, num_chars)
        else:
            slow = [{}] * len(rollouts)
        scores = []
        pairs = zip(rollouts, slow, strict=True)
        for one, values in composer.waiting.in_turns(pairs):
            found = {**composer.quick.score(one.sample), **values}
            for remote in one.remote:
                value: dict[str, float] = self._client.deadline.wait_for(remote)
                found |= value
            names = (term.name for term in self._composition.terms if term.name in found)
            scores.append({name: found[name] for name in names})
        return scores

    def _score_remote(self, term: Composition, sample: Sample) -> dict[str, float]:
        if self._client.is_gone():
            raise ClientGone("the client has gone")
        return term.score(sample)


def _score_all(composition: Composition, samples: Sequence[Sample]) -> list[dict[str, float]]:
    return [composition.score(sample) for sample in samples]


def _make_member(rollout: _Rollout, scores: dict[str, float]) -> Member:
    prompt, label = rollout.key
    return Member(_digest(prompt, repr(label)), _digest(rollout.query), rollout.sample, scores)


def _digest(*texts: str) -> str:
    return hashlib.sha256(repr(texts).encode()).hexdigest()
