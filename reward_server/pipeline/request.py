"""One request: its rollouts are graded and scored at the same time, then combined to rewards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from reward_server.errors import InvalidRequest, RequestTimedOut, ScoringFailed
from reward_server.observe.metrics import Metrics
from reward_server.pipeline.batcher import Logprobs
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.rollout import ScoredRollout, SubmittedRollout
from reward_server.pipeline.waiting import Deadline, Waiting
from sar import __version__
from sar.decision import Decision
from sar.errors import one_line
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Verdict
from sar.reward import Likelihood, Reward, combine
from sar.tokenization import EncodedRollout


@dataclass(frozen=True)
class SharedParts:
    """The parts of the server that all requests use, and the weight of SAR."""

    graders: GraderPool
    sar_weight: float
    waiting: Waiting
    metrics: Metrics


@dataclass(frozen=True)
class _Pending:
    """A rollout that is being graded and scored."""

    rollout: SubmittedRollout
    prompt: str
    response: str
    """The two parts of the rollout's query, special tokens included."""
    encoded: EncodedRollout
    verdict: Future[Verdict]
    logprobs: Future[Logprobs]
    template_mismatch: bool


class RewardRequest:
    """The state of one request, from its rollouts to their rewards."""

    def __init__(
        self,
        rollouts: Sequence[SubmittedRollout],
        parts: SharedParts,
        engine: Engine,
        deadline: Deadline,
        is_abandoned: Callable[[], bool],
    ) -> None:
        """
        Args:
            engine: tokenises and scores all rollouts of this request.
            is_abandoned: whether the client has closed its connection.
        """
        self._rollouts = rollouts
        self._parts = parts
        self._engine = engine
        self._deadline = deadline
        self._is_abandoned = is_abandoned
        self._pending: list[_Pending] = []
        self._rewards: list[Reward] = []

    def compute_rewards(self) -> list[ScoredRollout]:
        """The rewards, in the order of the rollouts.

        Raises:
            ClientGone: the client left before its rollouts were scored.
            InvalidRequest: a query does not continue its prompt.
            NotReady: the server is stopping.
            RequestTimedOut: the deadline passed.
            ScoringFailed: the scorer or a grader failed.
        """
        try:
            for index, rollout in enumerate(self._rollouts):
                if index:
                    self._parts.waiting.for_others()
                self._pending.append(self._submit(index, rollout))
            self._rewards = [self._collect(pending) for pending in self._pending]
        finally:
            for pending in self._pending:  # once one failed, the others are not needed
                pending.verdict.cancel()
                pending.logprobs.cancel()
        return [
            ScoredRollout(
                reward,
                pending.template_mismatch,
                policy_version=self._engine.version,
                policy_age_s=time.monotonic() - self._engine.loaded_at_s,
            )
            for pending, reward in zip(self._pending, self._rewards, strict=True)
        ]

    def record_decisions(self, request_id: str) -> list[Decision]:
        """The reward log's records of the rewards that `compute_rewards` gave."""
        return [
            Decision.from_reward(
                reward,
                request_id=request_id,
                prompt=pending.prompt,
                response=pending.response,
                special_tokens=self._engine.tokenizer.find_special_tokens(pending.response),
                label_as_sent=pending.rollout.label_as_sent,
                label=pending.rollout.label,
                sar_weight=self._parts.sar_weight,
                template_mismatch=pending.template_mismatch,
                model=self._engine.path,
                server_version=__version__,
                policy_version=self._engine.version,
                end_tokens=self._engine.tokenizer.end_tokens,
            )
            for pending, reward in zip(self._pending, self._rewards, strict=True)
        ]

    def _submit(self, index: int, rollout: SubmittedRollout) -> _Pending:
        """Splits and tokenises a rollout, and queues it for a grader and the scorer.

        Raises:
            InvalidRequest: the query does not continue its prompt. `index` names it.
            NotReady: the server is stopping.
        """
        start_s = time.monotonic()
        tokenizer = self._engine.tokenizer
        try:
            prompt, response = tokenizer.split(rollout.query, rollout.prompt)
        except ValueError as error:
            raise InvalidRequest(f"query[{index}]: {error}", f"query[{index}]") from error
        text = tokenizer.make_graded_text(prompt, response)
        verdict = self._parts.graders.submit(text, rollout.label)
        encoded = tokenizer.encode(prompt, response)
        self._parts.metrics.add_stage("tokenise", time.monotonic() - start_s)
        return _Pending(
            rollout,
            prompt,
            response,
            encoded,
            verdict,
            self._engine.batcher.submit(encoded.sequences, self._is_abandoned),
            template_mismatch=tokenizer.has_other_frame(prompt),
        )

    def _collect(self, pending: _Pending) -> Reward:
        """Waits for a rollout's log-probabilities and verdict, and combines them.

        Raises:
            ClientGone, NotReady, RequestTimedOut, ScoringFailed: there is no reward.
        """
        logprobs = self._deadline.wait_for(pending.logprobs)
        try:
            verdict = self._deadline.wait_for(pending.verdict)
        except RequestTimedOut:
            raise
        except Exception as error:
            raise ScoringFailed(f"a grader failed: {one_line(error)}") from error
        label = pending.rollout.label
        reward = combine(
            verdict,
            Likelihood.from_logprobs(pending.encoded, logprobs),
            sar_weight=self._parts.sar_weight,
            mode=label.mode,
        )
        self._parts.metrics.add_reward(label, reward)
        return reward
