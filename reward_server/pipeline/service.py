"""From samples to rewards: grading in its processes and scoring in the batcher, at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from reward_server.errors import (
    InvalidRequest,
    NotReady,
    Overloaded,
    RequestTimedOut,
    ScoringFailed,
)
from reward_server.http.schema import Sample, ScoredSample
from reward_server.observe.metrics import Metrics
from reward_server.observe.reward_log import RewardLog
from reward_server.pipeline.batcher import BatcherCounters, Logprobs, QueueState
from reward_server.pipeline.waiting import IN_THREADS, Waiting
from reward_server.weights.engines import Engine, EngineInService
from sar import __version__
from sar.decision import Decision
from sar.grading.processes.pool import GraderPool
from sar.grading.rules.answers import opened_thinking
from sar.grading.verdict import Verdict
from sar.reward import Likelihood, Reward, combine
from sar.tokenization import EncodedRollout

# An estimate; what counts is memory, and that grows with the text.
_CHARS_PER_TOKEN = 4

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one server holds at once, and how long."""

    request_timeout_s: float = 170.0
    """A request is refused after this; OpenRLHF's client gives up on a try after 180 s."""
    max_queued_tokens: int = 2**31
    """Requests beyond it are refused; estimated from their texts, at four characters a token."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class _Pending:
    """A rollout that is being graded and scored."""

    sample: Sample
    prompt: str
    response: str
    """As the query was split, special tokens included."""
    encoded: EncodedRollout
    verdict: Future[Verdict]
    logprobs: Future[Logprobs]
    template_mismatch: bool


class RewardService:
    """Computes rewards. Requests that come before the model is loaded wait for it: a trainer's
    client gives up after five refusals, and then the run is lost."""

    def __init__(
        self,
        graders: GraderPool,
        *,
        sar_weight: float,
        limits: Limits = DEFAULT_LIMITS,
        waiting: Waiting = IN_THREADS,
        metrics: Metrics | None = None,
        reward_log: RewardLog | None = None,
    ) -> None:
        """
        Args:
            waiting: how requests wait; each is in a thread of its own unless told otherwise.
        """
        self.metrics = metrics or Metrics()
        self._reward_log = reward_log
        self._graders = graders
        self._sar_weight = sar_weight
        self._limits = limits
        self.waiting = waiting
        self.engines = EngineInService()
        self._in_flight = 0
        self._held_tokens = 0
        self._num_rollouts = 0
        self._num_unreadable_labels = 0
        self._num_checkpoints_refused = 0
        self._warned_of_mismatch = False
        self.counters = BatcherCounters()
        """For every engine's batcher to go on with."""
        self._counting = threading.Lock()
        self.metrics.read_from(lambda: self.status)

    def count_refused_checkpoint(self) -> None:
        with self._counting:
            self._num_checkpoints_refused += 1

    @property
    def state(self) -> Literal["loading", "ready", "failing"]:
        """Ready: rewards are given. Failing: the scorer is loaded, and fails again and again."""
        if not (engine := self.engines.current):
            return "loading"
        return "failing" if engine.batcher.is_failing else "ready"

    @property
    def status(self) -> dict[str, Any]:
        """How it is, and counters since the start."""
        engine = self.engines.current
        done = engine.batcher.counters if engine else self.counters
        queue = engine.batcher.queue if engine else QueueState(0, 0, 0.0)
        return {
            "ready": self.state == "ready",
            "rollouts": self._num_rollouts,
            "in_flight": self._in_flight,
            "queued_rollouts": queue.num_rollouts,
            "queued_tokens": queue.num_tokens,
            "oldest_queued_s": queue.oldest_s,
            "unreadable_labels": self._num_unreadable_labels,
            "batches": done.num_batches,
            "sequences": done.num_sequences,
            "tokens": done.num_tokens,
            "abandoned": done.num_abandoned,
            "busy_s": done.busy_s,
            "busy_share": done.busy_share,
            "grader_restarts": self._graders.num_restarts,
            "checkpoints_refused": self._num_checkpoints_refused,
            "decisions_not_logged": self._reward_log.num_dropped if self._reward_log else 0,
            "policy_version": engine.version if engine else 0,
            "policy_age_s": time.monotonic() - engine.loaded_at_s if engine else 0.0,
        }

    def rewards(
        self,
        samples: Sequence[Sample],
        is_abandoned: Callable[[], bool] = lambda: False,
        request_id: str = "",
    ) -> list[ScoredSample]:
        """The rewards of one request, in order.

        Args:
            request_id: for the reward log.
            is_abandoned: whether the request's client has gone.
        Raises:
            ClientGone: it had, when its turn came.
            InvalidRequest: a query does not continue its prompt.
            NotReady: the model did not load in time, or the server is stopping.
            Overloaded: more is held already than may be.
            RequestTimedOut: its time was over before its rewards were there.
            ScoringFailed: the scorer or a grader failed.
        """
        if not samples:
            return []
        num_tokens = sum(len(sample.query) for sample in samples) // _CHARS_PER_TOKEN
        self._admit(len(samples), num_tokens)
        pending: list[_Pending] = []
        try:
            return self._rewards(samples, is_abandoned, request_id, pending)
        finally:
            for one in pending:  # where one failed, the others need not be done
                one.verdict.cancel()
                one.logprobs.cancel()
            with self._counting:
                self._in_flight -= len(samples)
                self._held_tokens -= num_tokens

    def _admit(self, num_rollouts: int, num_tokens: int) -> None:
        limit = self._limits.max_queued_tokens
        with self._counting:
            # One that is too large by itself is taken when there is nothing else.
            if self._in_flight and self._held_tokens + num_tokens > limit:
                raise Overloaded(
                    f"{self._held_tokens} tokens are waiting already, and --max-queued-tokens is "
                    f"{limit}: use more servers, or a higher limit"
                )
            self._in_flight += num_rollouts
            self._held_tokens += num_tokens

    def _rewards(
        self,
        samples: Sequence[Sample],
        is_abandoned: Callable[[], bool],
        request_id: str,
        pending: list[_Pending],
    ) -> list[ScoredSample]:
        deadline = time.monotonic() + self._limits.request_timeout_s
        with self.engines.used(lambda loading: self._loaded(loading, deadline)) as engine:
            return self._rewards_of(engine, samples, is_abandoned, request_id, pending, deadline)

    def _loaded(self, loading: Future[Engine], deadline: float) -> Engine:
        try:
            return self._result(loading, deadline)
        except RequestTimedOut as error:
            raise NotReady("the model is still loading") from error

    def _rewards_of(
        self,
        engine: Engine,
        samples: Sequence[Sample],
        is_abandoned: Callable[[], bool],
        request_id: str,
        pending: list[_Pending],
        deadline: float,
    ) -> list[ScoredSample]:
        for index, sample in enumerate(samples):
            if index:
                self.waiting.for_others()
            pending.append(self._begin(engine, index, sample, is_abandoned))
        scored = [self._finish(engine, one, deadline) for one in pending]
        self._count(scored)
        if self._reward_log:
            decisions = [
                self._decision(engine, request_id, one, s.reward)
                for one, s in zip(pending, scored, strict=True)
            ]
            self._reward_log.record(decisions)
        return scored

    def _decision(self, engine: Engine, request_id: str, one: _Pending, reward: Reward) -> Decision:
        return Decision.from_reward(
            reward,
            request_id=request_id,
            prompt=one.prompt,
            response=one.response,
            special_tokens=engine.tokenizer.find_special_tokens(one.response),
            label_as_sent=one.sample.label_as_sent,
            label=one.sample.label,
            sar_weight=self._sar_weight,
            template_mismatch=one.template_mismatch,
            model=engine.path,
            server_version=__version__,
            policy_version=engine.version,
        )

    def _begin(
        self, engine: Engine, index: int, sample: Sample, is_abandoned: Callable[[], bool]
    ) -> _Pending:
        """Sends a rollout to the graders and, as a job of its own, to the batcher."""
        start_s = time.monotonic()
        try:
            prompt, response = engine.tokenizer.split(sample.query, sample.prompt)
        except ValueError as error:
            raise InvalidRequest(f"query[{index}]: {error}", f"query[{index}]") from error
        text = engine.tokenizer.remove_special_tokens(response)
        verdict = self._graders.submit(opened_thinking(prompt) + text, sample.label)
        encoded = engine.tokenizer.encode(prompt, response)
        self.metrics.add_stage("tokenise", time.monotonic() - start_s)
        return _Pending(
            sample,
            prompt,
            response,
            encoded,
            verdict,
            engine.batcher.submit(encoded.sequences, is_abandoned),
            template_mismatch=engine.tokenizer.has_other_frame(prompt),
        )

    def _finish(self, engine: Engine, one: _Pending, deadline: float) -> ScoredSample:
        likelihood = Likelihood.from_logprobs(one.encoded, self._result(one.logprobs, deadline))
        try:
            verdict = self._result(one.verdict, deadline)
        except RequestTimedOut:
            raise
        except Exception as error:
            raise ScoringFailed(f"a grader failed: {type(error).__name__}: {error}") from error
        reward = combine(
            verdict, likelihood, sar_weight=self._sar_weight, mode=one.sample.label.mode
        )
        self.metrics.add_reward(one.sample.label, reward)
        return ScoredSample(
            reward,
            one.template_mismatch,
            policy_version=engine.version,
            policy_age_s=time.monotonic() - engine.loaded_at_s,
        )

    def _result(self, future: Future[_T], deadline: float) -> _T:
        try:
            result: _T = self.waiting.for_result(future, max(0.0, deadline - time.monotonic()))
            return result
        except TimeoutError as error:
            if future.done():  # just now, or with an error of that name
                return future.result()
            raise RequestTimedOut(
                f"no reward after {self._limits.request_timeout_s:g} s; /metrics shows what waits"
            ) from error

    def _count(self, scored: Sequence[ScoredSample]) -> None:
        unreadable = sum(s.reward.verdict.label_unreadable for s in scored)
        mismatched = any(s.template_mismatch for s in scored)
        with self._counting:
            self._num_rollouts += len(scored)
            self._num_unreadable_labels += unreadable
            warn = mismatched and not self._warned_of_mismatch
            self._warned_of_mismatch |= mismatched
        if warn:
            _log.warning(
                "a prompt has another system prompt or template around its question than the "
                "empty-question prompt, so SAR compares unlike things; check --system-prompt and "
                "--model (said once; template_mismatch in extra_logs)"
            )
