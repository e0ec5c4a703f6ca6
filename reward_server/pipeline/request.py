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
from itertools import repeat

from reward_server.errors import InvalidRequest, NotReady, RequestTimedOut, ScoringFailed
from reward_server.observe.metrics import Metrics
from reward_server.pipeline.cohorts import Outdated, Settled
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


class RewardRequest:
    """The state of one request, from its rollouts to their rewards."""

    def __init__(
        self, rollouts: Sequence[SubmittedRollout], parts: SharedParts, client: Client
    ) -> None:
        self._rollouts = rollouts
        self._parts = parts
        self._client = client
        self._composed: ComposedRewards | None = None
        self._pending: list[_Pending] = []
        self._rewards: list[Reward] = []
        self._settled: list[Settled] = []
        """One for each reward if `composer` computed them, else empty."""

    def compute_rewards(
        self, borrow: Callable[[], AbstractContextManager[Engine]]
    ) -> list[ScoredRollout]:
        """The rewards, in the order of the rollouts.

        Args:
            borrow: lends the engine that tokenises and scores all rollouts of this request. It is
                given back before the request waits for terms and siblings: a new engine can take
                its place meanwhile. If that happens while siblings are missing, the new engine
                scores all rollouts again.
        Raises:
            ClientGone: the client left before its rollouts were scored.
            InvalidRequest: a query does not continue its prompt.
            NotReady: the server is stopping.
            RequestTimedOut: the deadline passed.
            ScoringFailed: the scorer, a grader or a term failed.
        """
        num_again = 0
        try:
            while not self._try(borrow):
                num_again += 1
        except NotReady as error:
            if not num_again:
                raise
            raise NotReady(f"{error}; it was scored again {num_again} x for new weights") from error
        return [
            ScoredRollout(
                reward,
                pending.prepared.template_mismatch,
                policy_version=self._engine.version,
                policy_age_s=time.monotonic() - self._engine.loaded_at_s,
                cohort_incomplete=settled is not None and settled.incomplete,
            )
            for pending, reward, settled in self._list_rewards()
        ]

    def _try(self, borrow: Callable[[], AbstractContextManager[Engine]]) -> bool:
        """Scores the rollouts and waits for terms and siblings. False if a sibling was scored with
        newer weights."""
        self._pending = []
        try:
            with borrow() as self._engine:
                if composer := self._parts.composer:
                    loaded_at_s = self._engine.loaded_at_s
                    self._composed = ComposedRewards(composer, self._client, loaded_at_s)
                self._score()
            if self._composed:
                self._settle(self._composed)
        except Outdated:
            return False
        finally:
            if self._composed:
                self._composed.cancel()
        return True

    def record_decisions(self) -> Iterator[Decision]:
        """The reward log's records of the rewards that `compute_rewards` gave."""
        for pending, reward, settled in self._list_rewards():
            prepared = pending.prepared
            yield Decision.from_reward(
                reward,
                request_id=self._client.request_id,
                prompt=prepared.prompt,
                response=prepared.response,
                special_tokens=prepared.special_tokens,
                label_as_sent=prepared.rollout.label_as_sent,
                label=prepared.rollout.label,
                sar_weight=self._parts.sar_weight,
                template_mismatch=prepared.template_mismatch,
                model=self._engine.path,
                server_version=__version__,
                policy_version=self._engine.version,
                end_tokens=self._engine.tokenizer.end_tokens,
                place=settled.place if settled else NO_GROUP,
            )

    def _list_rewards(self) -> Iterator[tuple[_Pending, Reward, Settled | None]]:
        settled = self._settled or repeat(None, len(self._rewards))
        return zip(self._pending, self._rewards, settled, strict=True)

    def _score(self) -> None:
        """Grades and scores all rollouts. Without a reward file, that gives their rewards."""
        try:
            chunks = split_into_chunks(list(enumerate(self._rollouts)), _count_chars)
            for chunk, num_chars in chunks:
                work = partial(self._prepare, chunk)
                prepared = self._parts.intake.run(work, self._client, num_chars)
                self._pending += map(self._submit, prepared)
            for pending in self._parts.waiting.in_turns(self._pending):
                self._collect(pending)
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

    def _collect(self, pending: _Pending) -> None:
        """Waits for a rollout's log-probabilities and verdict, and combines them.

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
            self._give(label, combine(verdict, likelihood, sar_weight=weight, mode=label.mode))

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
        self._settled = composed.settle()
        for sample, settled in zip(composed.samples, self._settled, strict=True):
            reward = Reward(settled.reward, sample.verdict, sample.likelihood, settled.terms)
            self._give(sample.label, reward)

    def _give(self, label: Label, reward: Reward) -> None:
        self._rewards.append(reward)
        self._parts.metrics.add_reward(label, reward)


def _count_chars(rollout: tuple[int, SubmittedRollout]) -> int:
    return len(rollout[1].query) + len(rollout[1].prompt)
