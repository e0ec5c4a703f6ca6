"""From samples to rewards: grading in its processes and scoring in the batcher, at once."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reward_server.batcher import Batcher, BatcherCounters, Logprobs
from reward_server.errors import InvalidRequest, NotReady, ScoringFailed
from reward_server.protocol import Sample, ScoredSample
from sar.grading.answers import opened_thinking
from sar.grading.pool import GraderPool, PendingVerdict
from sar.grading.verdict import Verdict
from sar.perplexity import mean_nll
from sar.reward import EMPTY_RESPONSE, Likelihood, combine
from sar.rollout import Rollout
from sar.tokenization import EncodedRollout, RolloutTokenizer

# OpenRLHF's client gives up on a try after 180 s; it is answered before that.
_MAX_WAIT_FOR_MODEL_S = 170.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What a loaded model brings."""

    tokenizer: RolloutTokenizer
    batcher: Batcher


class RewardService:
    """Computes rewards. Requests that come before the model is loaded wait for it: a trainer's
    client gives up after five refusals, and then the run is lost."""

    def __init__(self, graders: GraderPool, *, sar_weight: float) -> None:
        self._graders = graders
        self._sar_weight = sar_weight
        self._engine: Engine | None = None
        self._loaded = threading.Event()
        self._in_flight = 0
        self._num_rollouts = 0
        self._num_unreadable_labels = 0
        self._warned_of_mismatch = False
        self._counting = threading.Lock()

    def start(self, engine: Engine) -> None:
        """Takes the loaded model into service."""
        # What is loaded stays: the collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        self._engine = engine
        self._loaded.set()

    @property
    def is_ready(self) -> bool:
        return self._loaded.is_set()

    @property
    def status(self) -> dict[str, Any]:
        """Counters since the start, for a person's eyes."""
        done = self._engine.batcher.counters if self._engine else BatcherCounters()
        return {
            "rollouts": self._num_rollouts,
            "in_flight": self._in_flight,
            "unreadable_labels": self._num_unreadable_labels,
            "batches": done.num_batches,
            "sequences": done.num_sequences,
            "tokens": done.num_tokens,
            "abandoned": done.num_abandoned,
            "busy_s": done.busy_s,
            "busy_share": done.busy_share,
        }

    def rewards(
        self, samples: Sequence[Sample], is_abandoned: Callable[[], bool] = lambda: False
    ) -> list[ScoredSample]:
        """The rewards of one request, in order.

        Args:
            is_abandoned: whether the request's client has gone.
        Raises:
            ClientGone: it had, when its turn came.
            InvalidRequest: a query does not continue its prompt.
            NotReady: the model did not load in time, or the server is stopping.
            ScoringFailed: the scorer or a grader failed.
        """
        if not samples:
            return []
        with self._counting:
            self._in_flight += len(samples)
        try:
            return self._rewards(samples, self._wait_for_engine(), is_abandoned)
        finally:
            with self._counting:
                self._in_flight -= len(samples)

    def _rewards(
        self, samples: Sequence[Sample], engine: Engine, is_abandoned: Callable[[], bool]
    ) -> list[ScoredSample]:
        rollouts = [self._rollout(engine, i, sample) for i, sample in enumerate(samples)]
        pending = [self._start_grading(engine, rollout) for rollout in rollouts]
        encoded = [engine.tokenizer.encode(r.prompt, r.response) for r in rollouts]
        # A job per rollout, so that a request of hundreds does not become one huge batch.
        futures = [engine.batcher.submit(e.sequences, is_abandoned) for e in encoded]
        try:
            likelihoods = [
                _likelihood(e, f.result()) for e, f in zip(encoded, futures, strict=True)
            ]
        finally:
            for future in futures:
                future.cancel()  # where one failed, the request has; the others need not be scored
        scored = [
            ScoredSample(
                combine(
                    _verdict(verdict),
                    likelihood,
                    sar_weight=self._sar_weight,
                    mode=rollout.label.mode,
                ),
                template_mismatch=engine.tokenizer.has_other_frame(rollout.prompt),
            )
            for rollout, verdict, likelihood in zip(rollouts, pending, likelihoods, strict=True)
        ]
        self._count(scored)
        return scored

    def _rollout(self, engine: Engine, index: int, sample: Sample) -> Rollout:
        try:
            prompt, response = engine.tokenizer.split(sample.query, sample.prompt)
        except ValueError as error:
            raise InvalidRequest(f"query[{index}]: {error}", f"query[{index}]") from error
        return Rollout(prompt, response, sample.label)

    def _start_grading(self, engine: Engine, rollout: Rollout) -> PendingVerdict:
        text = engine.tokenizer.without_special_tokens(rollout.response)
        return self._graders.submit(opened_thinking(rollout.prompt) + text, rollout.label)

    def _wait_for_engine(self) -> Engine:
        if not self._loaded.wait(_MAX_WAIT_FOR_MODEL_S) or self._engine is None:
            raise NotReady("the model is still loading")
        return self._engine

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


def _likelihood(encoded: EncodedRollout, logprobs: Logprobs) -> Likelihood:
    if not encoded.sequences:
        return EMPTY_RESPONSE
    logprobs_qa, logprobs_a = logprobs
    try:
        return Likelihood(
            nll_qa=mean_nll(logprobs_qa),
            nll_a=mean_nll(logprobs_a),
            num_response_tokens=encoded.num_response_tokens,
            truncated=encoded.truncated,
        )
    except FloatingPointError as error:
        raise ScoringFailed(str(error)) from error


def _verdict(pending: PendingVerdict) -> Verdict:
    try:
        return pending.verdict()
    except Exception as error:
        raise ScoringFailed(f"a grader failed: {type(error).__name__}: {error}") from error
