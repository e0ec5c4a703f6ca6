"""Composes the rewards of a request from the terms of `--reward`.

Where a term is computed:
1. A quick one: at once, in the thread that serves connections.
2. One that waits for another server: in a thread of its own, from the moment the rollout is graded
   and scored. So many of them wait at the same time, and while the model scores other rollouts.
3. One that compares rollouts: in the threads of `cohorts`.
4. All others: in the intake's threads.

In mode "eval", no term is computed and nothing is compared: the reward is the correctness.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from reward_server.errors import ClientGone, ScoringFailed
from reward_server.pipeline.cohorts import Cohorts, Member, Outdated, Settled
from reward_server.pipeline.intake import Intake, split_into_chunks
from reward_server.pipeline.waiting import Client, Waiting
from sar.terms.base import Sample, Term, TermError
from sar.terms.composition import Composition

# Threads of a term that waits for another server and does not say how many it can use.
_NUM_REMOTE_THREADS = 32
# A thread that waits costs little, but not nothing.
_MAX_REMOTE_THREADS = 512


class Composer:
    """What all requests share: the terms, by where they are computed, and the groups that wait."""

    def __init__(self, composition: Composition, intake: Intake, waiting: Waiting) -> None:
        self.composition = composition
        self.intake = intake
        self.waiting = waiting
        self.quick = _select(composition, lambda one: one.is_quick and not one.is_remote)
        self.slow = _select(composition, lambda one: not (one.is_quick or one.is_remote))
        remote = _select(composition, lambda one: one.is_remote)
        self.remote = [_RemoteTerm(replace(remote, terms=(one,))) for one in remote.terms]
        self.cohorts = Cohorts(composition) if composition.group_size else None
        self._counting = threading.Lock()
        self._num_computing = 0
        self.num_waiting = 0
        """Rollouts of requests that wait for siblings, or for the terms that compare them."""

    @property
    def is_computing(self) -> bool:
        """Whether a thread computes a term, perhaps for a request that does not wait any more."""
        return self._num_computing > 0 or (self.cohorts is not None and self.cohorts.is_computing)

    def close(self) -> None:
        """Refuses the groups that wait for siblings: their clients ask again."""
        if self.cohorts is not None:
            self.cohorts.close()

    @contextmanager
    def count_computing(self) -> Iterator[None]:
        """Counts the block as computing."""
        with self._counting:
            self._num_computing += 1
        try:
            yield
        finally:
            with self._counting:
                self._num_computing -= 1

    @contextmanager
    def count_waiting(self, num_rollouts: int) -> Iterator[None]:
        """Counts so many rollouts as waiting during the block."""
        with self._counting:
            self.num_waiting += num_rollouts
        try:
            yield
        finally:
            with self._counting:
                self.num_waiting -= num_rollouts


def _select(composition: Composition, is_wanted: Callable[[Term], bool]) -> Composition:
    """Those of the terms that look at one rollout alone, and are wanted."""
    terms = [one for one in composition.terms if isinstance(one.term, Term) and is_wanted(one.term)]
    return replace(composition, terms=tuple(terms))


class _RemoteTerm:
    """A term that waits for another server, and the threads in which it does. Each has its own, so
    that a server that hangs does not keep the other terms waiting."""

    def __init__(self, composition: Composition) -> None:
        (one,) = composition.terms
        num_threads = getattr(one.term, "max_concurrency", _NUM_REMOTE_THREADS)
        self.composition = composition
        self.threads = ThreadPoolExecutor(
            min(num_threads, _MAX_REMOTE_THREADS), thread_name_prefix=f"term-{one.name}"
        )


@dataclass(frozen=True)
class _Rollout:
    """A rollout, and its terms that wait for other servers."""

    sample: Sample
    query: str
    remote: list[Future[dict[str, float]]]
    """Each has the value of one term, by name. Empty in mode "eval"."""

    @property
    def is_trained(self) -> bool:
        return self.sample.label.mode == "train"

    @property
    def num_chars(self) -> int:
        return self.sample.num_chars


class ComposedRewards:
    """The rewards of one request."""

    def __init__(self, composer: Composer, client: Client, weights_loaded_at_s: float) -> None:
        """
        Args:
            weights_loaded_at_s: `Engine.loaded_at_s` of the engine that scores the rollouts.
        """
        self._weights_loaded_at_s = weights_loaded_at_s
        self._composer = composer
        self._composition = composer.composition
        self._client = client
        self._rollouts: list[_Rollout] = []

    def add(self, sample: Sample, query: str) -> None:
        """Starts the terms of one rollout that wait for other servers."""
        rollout = _Rollout(sample, query, [])
        self._rollouts.append(rollout)
        for one in self._composer.remote if rollout.is_trained else ():
            score = partial(self._score_remote, one.composition, sample)
            rollout.remote.append(one.threads.submit(score))

    @property
    def samples(self) -> list[Sample]:
        return [one.sample for one in self._rollouts]

    def settle(self) -> dict[int, Settled]:
        """The rewards of the added rollouts, by index. Some are missing if they must be scored
        again: siblings were scored with newer weights.

        Raises:
            ScoringFailed: a term failed.
            ClientGone, NotReady, RequestTimedOut: there is no reward.
        """
        trained = [index for index, one in enumerate(self._rollouts) if one.is_trained]
        settled: Mapping[int, Settled]
        try:
            settled = dict(enumerate(self._settle([self._rollouts[index] for index in trained])))
        except Outdated as outdated:
            settled = outdated.settled
        except TermError as error:
            raise ScoringFailed(str(error)) from error
        return {trained[place]: one for place, one in settled.items()} | {
            index: self._settle_eval(one.sample)
            for index, one in enumerate(self._rollouts)
            if not one.is_trained
        }

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
        """The rewards of rollouts in mode "train"."""
        scores = self._score(rollouts)
        if self._composer.cohorts is None:
            samples = [one.sample for one in rollouts]
            rewards = self._composition.combine(samples, scores)
            return [Settled(*one) for one in zip(rewards, scores, strict=True)]
        pairs = self._composer.waiting.in_turns(zip(rollouts, scores, strict=True))
        members = [self._make_member(*pair) for pair in pairs]
        if not members:
            return []
        with self._composer.count_waiting(len(self._rollouts)):
            return self._composer.cohorts.join(members, self._client)

    def _score(self, rollouts: Sequence[_Rollout]) -> list[dict[str, float]]:
        """The values of the terms that look at one rollout alone."""
        composer = self._composer
        slow: list[dict[str, float]] = []
        for chunk, num_chars in split_into_chunks(rollouts, lambda one: one.num_chars):
            samples = [one.sample for one in chunk]
            if composer.slow.terms:
                work = partial(self._score_slow, samples)
                slow += composer.intake.run(work, self._client, num_chars)
            else:
                slow += [{} for _ in samples]
        scores = []
        pairs = zip(rollouts, slow, strict=True)
        for one, values in composer.waiting.in_turns(pairs):
            values |= composer.quick.score(one.sample)
            for remote in one.remote:
                value: dict[str, float] = self._client.deadline.wait_for(remote)
                values |= value
            scores.append(values)
        return scores

    def _make_member(self, rollout: _Rollout, scores: dict[str, float]) -> Member:
        sample = rollout.sample
        key = _digest(sample.prompt, repr(sample.label))
        return Member(key, _digest(rollout.query), sample, scores, self._weights_loaded_at_s)

    def _score_slow(self, samples: Sequence[Sample]) -> list[dict[str, float]]:
        with self._composer.count_computing():
            return [self._composer.slow.score(sample) for sample in samples]

    def _score_remote(self, term: Composition, sample: Sample) -> dict[str, float]:
        if self._client.is_gone():
            raise ClientGone("the client has gone")
        with self._composer.count_computing():
            return term.score(sample)


def _digest(*texts: str) -> str:
    parts = [text.encode() for text in texts]
    lengths = repr([len(part) for part in parts]).encode()  # "ab" + "c" is not "a" + "bc"
    return hashlib.sha256(b"".join([lengths, *parts])).hexdigest()
