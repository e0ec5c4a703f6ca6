"""One request: its rollouts are graded and scored at the same time, then combined to rewards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from reward_server.errors import InvalidRequest, RequestTimedOut, ScoringFailed
from reward_server.observe.metrics import Metrics
from reward_server.pipeline.batcher import Logprobs
from reward_server.pipeline.engine import Engine
from reward_server.pipeline.intake import Intake
from reward_server.pipeline.rollout import ScoredRollout, SubmittedRollout
from reward_server.pipeline.waiting import Client, Waiting
from sar import __version__
from sar.decision import Decision
from sar.errors import one_line
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Verdict
from sar.reward import Likelihood, Reward, combine
from sar.tokenization import EncodedRollout

# Characters of queries and prompts tokenised before another request has its turn: about 10 ms of
# work.
_CHARS_IN_A_ROW = 1 << 14


@dataclass(frozen=True)
class SharedParts:
    """The parts of the server that all requests use, and the weight of SAR."""

    graders: GraderPool
    sar_weight: float
    intake: Intake
    waiting: Waiting
    metrics: Metrics


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
        self,
        rollouts: Sequence[SubmittedRollout],
        parts: SharedParts,
        engine: Engine,
        client: Client,
    ) -> None:
        """
        Args:
            engine: tokenises and scores all rollouts of this request.
        """
        self._rollouts = rollouts
        self._parts = parts
        self._engine = engine
        self._client = client
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
            for chunk, num_chars in _split_into_chunks(self._rollouts):
                work = partial(self._prepare, chunk)
                prepared = self._parts.intake.run(work, self._client, num_chars)
                self._pending += map(self._submit, prepared)
            in_turns = self._parts.waiting.in_turns(self._pending)
            self._rewards = [self._collect(pending) for pending in in_turns]
        finally:
            for pending in self._pending:  # once one failed, the others are not needed
                pending.verdict.cancel()
                pending.logprobs.cancel()
        return [
            ScoredRollout(
                reward,
                pending.prepared.template_mismatch,
                policy_version=self._engine.version,
                policy_age_s=time.monotonic() - self._engine.loaded_at_s,
            )
            for pending, reward in zip(self._pending, self._rewards, strict=True)
        ]

    def record_decisions(self) -> Iterator[Decision]:
        """The reward log's records of the rewards that `compute_rewards` gave."""
        for pending, reward in zip(self._pending, self._rewards, strict=True):
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
            )

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
            one = _Prepared(
                rollout,
                prompt,
                response,
                tokenizer.find_special_tokens(response),
                tokenizer.make_graded_text(prompt, response),
                tokenizer.encode(prompt, response),
                template_mismatch=tokenizer.has_other_frame(prompt),
            )
            prepared.append(one)
            self._parts.metrics.add_stage("tokenise", time.monotonic() - start_s)
        return prepared

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

    def _collect(self, pending: _Pending) -> Reward:
        """Waits for a rollout's log-probabilities and verdict, and combines them.

        Raises:
            ClientGone, NotReady, RequestTimedOut, ScoringFailed: there is no reward.
        """
        logprobs = self._client.deadline.wait_for(pending.logprobs)
        try:
            verdict = self._client.deadline.wait_for(pending.verdict)
        except RequestTimedOut:
            raise
        except Exception as error:
            raise ScoringFailed(f"a grader failed: {one_line(error)}") from error
        label = pending.prepared.rollout.label
        reward = combine(
            verdict,
            Likelihood.from_logprobs(pending.prepared.encoded, logprobs),
            sar_weight=self._parts.sar_weight,
            mode=label.mode,
        )
        self._parts.metrics.add_reward(label, reward)
        return reward


def _split_into_chunks(
    rollouts: Sequence[SubmittedRollout],
) -> Iterator[tuple[list[tuple[int, SubmittedRollout]], int]]:
    """Rollouts that are tokenised in one go, each with its index, and their number of characters.
    Between chunks, other requests have their turn."""
    chunk: list[tuple[int, SubmittedRollout]] = []
    num_chars = 0
    for index, rollout in enumerate(rollouts):
        num_more = len(rollout.query) + len(rollout.prompt)
        if chunk and num_chars + num_more > _CHARS_IN_A_ROW:
            yield chunk, num_chars
            chunk, num_chars = [], 0
        chunk.append((index, rollout))
        num_chars += num_more
    yield chunk, num_chars
