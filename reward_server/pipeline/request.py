"""One request: its rollouts are graded and scored at the same time, then combined to rewards.

With a reward file, `composer` combines them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from reward_server.errors import InvalidRequest, NotReady, RequestTimedOut, ScoringFailed
from reward_server.observe.metrics import Metrics
from reward_server.pipeline.cohorts import Settled
from reward_server.pipeline.composer import ComposedRewards, Composer
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.intake import Intake, split_into_chunks
from reward_server.pipeline.jobs import Logprobs
from reward_server.pipeline.rollout import ScoredRollout, SubmittedRollout
from reward_server.pipeline.waiting import Client, Waiting
from sar import __version__
from sar.decision import NO_GROUP, Decision
from sar.errors import one_line
from sar.grading.label import Label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Verdict
from sar.reward import Likelihood, Reward, combine
from sar.terms.base import Sample
from sar.tokenization import NO_NEEDS, EncodedRollout, Need


@dataclass(frozen=True)
class SharedParts:
    """The parts of the server that all requests use, and what makes a reward."""

    graders: GraderPool
    sar_weight: float
    intake: Intake
    waiting: Waiting
    metrics: Metrics
    composer: Composer | None = None
    """Composes the reward of a reward file. None: it is correctness + `sar_weight` x SAR."""


@dataclass(frozen=True)
class _Prepared:
    """A rollout that is split and tokenised."""

    rollout: SubmittedRollout
    prompt: str
    response: str
    """The two parts of the rollout's query, special tokens included."""
    special_tokens: tuple[str, ...]
    """Those of the response, for the reward log."""
    graded_text: str
    encoded: EncodedRollout
    template_mismatch: bool


@dataclass(frozen=True)
class _Pending:
    """A rollout that is being graded and scored."""

    prepared: _Prepared
    verdict: Future[Verdict]
    logprobs: Future[Logprobs]


@dataclass(frozen=True)
class _Rewarded:
    """A rollout that has its reward."""

    prepared: _Prepared
    engine: Engine
    """What scored it."""
    reward: Reward
    settled: Settled | None
    """None: without `composer`."""


class RewardRequest:
    """The state of one request, from its rollouts to their rewards."""

    def __init__(
        self, rollouts: Sequence[SubmittedRollout], parts: SharedParts, client: Client
    ) -> None:
        self._rollouts = rollouts
        self._parts = parts
        self._client = client
        self._composed: ComposedRewards | None = None
        self._open = list(range(len(rollouts)))
        """The indices of the rollouts that have no reward yet."""
        self._pending: list[_Pending] = []
        """These rollouts, in this order."""
        self._rewarded: dict[int, _Rewarded] = {}
        """By index."""

    def compute_rewards(
        self, borrow: Callable[[], AbstractContextManager[Engine]]
    ) -> list[ScoredRollout]:
        """The rewards, in the order of the rollouts.

        Args:
            borrow: lends the engine that tokenises and scores all rollouts of this request. It is
                given back before the request waits for terms and siblings: a new engine can take
                its place meanwhile. If that happens while siblings are missing, the new engine
                scores their rollouts again.
        Raises:
            ClientGone: the client left before its rollouts were scored.
            InvalidRequest: a query does not continue its prompt.
            NotReady: the server is stopping.
            RequestTimedOut: the deadline passed.
            ScoringFailed: the scorer, a grader or a term failed.
        """
        num_tries = 0
        try:
            while self._open:
                num_tries += 1
                self._try(borrow)
        except NotReady as error:
            if num_tries == 1:
                raise
            message = f"{error}; it was scored {num_tries} times, as new weights came"
            raise NotReady(message) from error
        return [
            ScoredRollout(
                one.reward,
                one.prepared.template_mismatch,
                policy_version=one.engine.version,
                policy_age_s=time.monotonic() - one.engine.loaded_at_s,
                cohort_incomplete=one.settled is not None and one.settled.incomplete,
            )
            for one in self._in_order
        ]

    def _try(self, borrow: Callable[[], AbstractContextManager[Engine]]) -> None:
        """Scores the open rollouts, and waits for terms and siblings. Those that must be scored
        again stay open."""
        self._pending = []
        try:
            with borrow() as self._engine:
                if composer := self._parts.composer:
                    loaded_at_s = self._engine.loaded_at_s
                    self._composed = ComposedRewards(composer, self._client, loaded_at_s)
                self._score()
            if self._composed:
                self._settle(self._composed)
        finally:
            if self._composed:
                self._composed.cancel()
        self._open = [index for index in self._open if index not in self._rewarded]

    def record_decisions(self) -> Iterator[Decision]:
        """The reward log's records of the rewards that `compute_rewards` gave."""
        for one in self._in_order:
            prepared, engine = one.prepared, one.engine
            yield Decision.from_reward(
                one.reward,
                request_id=self._client.request_id,
                prompt=prepared.prompt,
                response=prepared.response,
                special_tokens=prepared.special_tokens,
                label_as_sent=prepared.rollout.label_as_sent,
                label=prepared.rollout.label,
                sar_weight=self._parts.sar_weight,
                template_mismatch=prepared.template_mismatch,
                model=engine.path,
                server_version=__version__,
                policy_version=engine.version,
                end_tokens=engine.tokenizer.end_tokens,
                place=one.settled.place if one.settled else NO_GROUP,
            )

    @property
    def _in_order(self) -> list[_Rewarded]:
        return [self._rewarded[index] for index in range(len(self._rollouts))]

    def _score(self) -> None:
        """Grades and scores the open rollouts. Without a reward file, that gives their rewards."""
        try:
            rollouts = [(index, self._rollouts[index]) for index in self._open]
            chunks = split_into_chunks(rollouts, _count_chars)
            for chunk, num_chars in chunks:
                work = partial(self._prepare, chunk)
                prepared = self._parts.intake.run(work, self._client, num_chars)
                self._pending += map(self._submit, prepared)
            for place, pending in self._parts.waiting.in_turns(enumerate(self._pending)):
                self._collect(place, pending)
        finally:
            for pending in self._pending:  # once one failed, the others are not needed
                pending.verdict.cancel()
                pending.logprobs.cancel()

    def _prepare(self, rollouts: Sequence[tuple[int, SubmittedRollout]]) -> list[_Prepared]:
        """Splits and tokenises rollouts.

        Args:
            rollouts: each with its index in the request.
        Raises:
            InvalidRequest: a query does not continue its prompt.
        """
        prepared = []
        tokenizer = self._engine.tokenizer
        for index, rollout in rollouts:
            start_s = time.monotonic()
            try:
                prompt, response = tokenizer.split(rollout.query, rollout.prompt)
            except ValueError as error:
                raise InvalidRequest(f"query[{index}]: {error}", f"query[{index}]") from error
            label = rollout.label
            one = _Prepared(
                rollout,
                prompt,
                response,
                tokenizer.find_special_tokens(response),
                tokenizer.make_graded_text(prompt, response),
                tokenizer.encode(
                    prompt, response, needs=self._find_needs(label), reference=label.answer
                ),
                template_mismatch=tokenizer.has_other_frame(prompt),
            )
            prepared.append(one)
            self._parts.metrics.add_stage("tokenise", time.monotonic() - start_s)
        return prepared

    def _find_needs(self, label: Label) -> frozenset[Need]:
        """What the terms need of the scorer. In mode "eval", none is computed."""
        composer = self._parts.composer
        return composer.composition.needs if composer and label.mode == "train" else NO_NEEDS

    def _submit(self, prepared: _Prepared) -> _Pending:
        """Queues a rollout for a grader and the scorer.

        Raises:
            NotReady: the server is stopping.
        """
        return _Pending(
            prepared,
            self._parts.graders.submit(prepared.graded_text, prepared.rollout.label),
            self._engine.batcher.submit(prepared.encoded.sequences, self._client.is_gone),
        )

    def _collect(self, place: int, pending: _Pending) -> None:
        """Waits for a rollout's log-probabilities and verdict, and combines them.

        Args:
            place: of the rollout among the open ones.
        Raises:
            ClientGone, NotReady, RequestTimedOut, ScoringFailed: there is no reward.
        """
        logprobs = self._wait_for_logprobs(pending)
        try:
            verdict = self._client.deadline.wait_for(pending.verdict)
        except RequestTimedOut:
            raise
        except Exception as error:
            raise ScoringFailed(f"a grader failed: {one_line(error)}") from error
        prepared, label = pending.prepared, pending.prepared.rollout.label
        likelihood = Likelihood.from_logprobs(prepared.encoded, logprobs)
        if self._composed:
            text = prepared.graded_text
            sample = Sample(prepared.prompt, text, label, verdict, likelihood)
            self._composed.add(sample, prepared.rollout.query)
        else:
            weight = self._parts.sar_weight
            self._give(place, combine(verdict, likelihood, sar_weight=weight, mode=label.mode))

    def _wait_for_logprobs(self, pending: _Pending) -> Logprobs:
        """
        Raises:
            NotReady: all scorers are lost, and none came back in time.
        """
        try:
            return self._client.deadline.wait_for(pending.logprobs)
        except RequestTimedOut as error:
            if self._engine.batcher.num_scorers:
                raise
            raise NotReady("no scorer is up") from error

    def _settle(self, composed: ComposedRewards) -> None:
        """Waits for the terms, and for the siblings of the rollouts."""
        for place, settled in composed.settle().items():
            sample = composed.samples[place]
            reward = Reward(settled.reward, sample.verdict, sample.likelihood, settled.terms)
            self._give(place, reward, settled)

    def _give(self, place: int, reward: Reward, settled: Settled | None = None) -> None:
        prepared = self._pending[place].prepared
        self._rewarded[self._open[place]] = _Rewarded(prepared, self._engine, reward, settled)
        self._parts.metrics.add_reward(prepared.rollout.label, reward)


def _count_chars(rollout: tuple[int, SubmittedRollout]) -> int:
    return len(rollout[1].query) + len(rollout[1].prompt)
