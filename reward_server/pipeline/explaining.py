"""Explains rollouts token by token, behind all rewards.

1. Rollouts are explained one after the other, in one thread, whoever sends them. The requests take
   turns after each rollout.
2. A rollout is scored alone, and only while no reward waits for the scorer (`submit_behind`). So a
   reward that comes meanwhile waits for one such rollout at most.
3. No engine is borrowed: new weights do not wait for explanations. A rollout whose engine closes
   before it is scored starts again with the next one.
4. Bodies are parsed and answers are written in a second thread. Both threads rest after each piece
   of work, so that the thread that serves connections has its turn.
5. With a reward that compares rollouts, those of the request with the same prompt and label are
   compared. Nothing waits for siblings: one that is alone has no reward.

Nothing of this is counted as a reward, or written to the reward log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from reward_server.errors import (
    ClientGone,
    InvalidRequest,
    NotReady,
    Overloaded,
    RequestTimedOut,
    ScoringFailed,
    TooLarge,
)
from reward_server.pipeline.engine import Engine, EngineSlot
from reward_server.pipeline.jobs import Logprobs
from reward_server.pipeline.rollout import SubmittedRollout
from reward_server.pipeline.waiting import IN_THREADS, Client
from reward_server.pipeline.workers import BatcherClosed
from sar.errors import one_line
from sar.explain.compose import Scored, compose_rewards, score_alone
from sar.explain.explanation import Explanation, explain_tokens
from sar.grading.processes.pool import GraderPool
from sar.reward import Likelihood, combine
from sar.terms.base import Sample, TermError
from sar.terms.composition import Composition
from sar.tokenization import NO_NEEDS, EncodedRollout

_T = TypeVar("_T")

MAX_ROLLOUTS = 64
"""In one request."""
# In one request: 64 rollouts of 4,096 tokens. The answer then has about 25 MB.
_MAX_TOKENS = 64 * 4096
# At once. More are refused: explanations must not fill the memory that rewards need.
_MAX_REQUESTS = 8
_MAX_REST_S = 1.0


@dataclass(frozen=True)
class ExplainedRollout:
    """A rollout's explanation, and the weights that it comes from."""

    explanation: Explanation
    policy_version: int


@dataclass(frozen=True)
class _Explained:
    """A rollout before it is compared with others."""

    scored: Scored
    policy_version: int

    def finish(self, explanation: Explanation) -> ExplainedRollout:
        return ExplainedRollout(explanation, self.policy_version)


class Explaining:
    """Explains the rollouts of all requests."""

    def __init__(
        self,
        engines: EngineSlot,
        graders: GraderPool,
        *,
        sar_weight: float,
        composition: Composition | None,
    ) -> None:
        self._engines = engines
        self._graders = graders
        self._sar_weight = sar_weight
        self._composition = composition
        self._working = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="explain-text")
        self._counting = threading.Lock()
        self._num_requests = 0
        self._num_working = 0
        self._is_closed = False

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Counts a request for as long as the block runs.

        Raises:
            Overloaded: too many others wait.
        """
        with self._counting:
            if self._num_requests >= _MAX_REQUESTS:
                raise Overloaded(
                    f"{_MAX_REQUESTS} requests for explanations are waiting already: send this one "
                    "again later"
                )
            self._num_requests += 1
        try:
            yield
        finally:
            with self._counting:
                self._num_requests -= 1

    def run(self, work: Callable[[], _T], client: Client) -> _T:
        """Runs work on texts, such as parsing, in its thread, and waits for it.

        Raises:
            ClientGone: the client had left before the work began.
            RequestTimedOut: the client's deadline passed first.
            Exception: whatever `work` raises.
        """
        return self._run(self._reading, work, client)

    def explain(
        self, rollouts: Sequence[SubmittedRollout], client: Client
    ) -> list[ExplainedRollout]:
        """The explanations of one request, in the order of its rollouts.

        Raises:
            ClientGone: the client has left.
            InvalidRequest: a query does not continue its prompt.
            NotReady: the model did not load in time, or the server is stopping.
            RequestTimedOut: the deadline passed, perhaps because rewards kept the scorer busy.
            ScoringFailed: the scorer, a grader or a term failed.
            TooLarge: the rollouts have too many tokens.
        """
        # In the threads' own way of waiting.
        inner = replace(client, deadline=client.deadline.with_waiting(IN_THREADS))
        explained: list[_Explained] = []
        num_tokens = 0
        for index, rollout in enumerate(rollouts):
            room = _MAX_TOKENS - num_tokens if index else None
            work = partial(self._score, index, rollout, inner, room)
            explained.append(self._run(self._working, work, client))
            num_tokens += len(explained[-1].scored.explanation.tokens)
        if self._composition is None:
            return [one.finish(one.scored.explanation) for one in explained]
        return self._run(self._working, lambda: self._compose(explained), client)

    def close(self) -> None:
        """Refuses what is not explained yet, as the server stops."""
        self._is_closed = True

    @property
    def is_working(self) -> bool:
        """Whether a thread works, perhaps for a request that does not wait any more."""
        return self._num_working > 0

    def _run(self, threads: ThreadPoolExecutor, work: Callable[[], _T], client: Client) -> _T:
        def start() -> _T:
            if client.is_gone():
                raise ClientGone("the client has gone")
            self._count_working(1)
            start_s = time.thread_time()
            try:
                return work()
            finally:
                self._count_working(-1)
                # So these threads have the GIL for at most half of the time.
                time.sleep(min(time.thread_time() - start_s, _MAX_REST_S))

        future = threads.submit(start)
        try:
            return client.deadline.wait_for(future)
        finally:
            future.cancel()

    def _count_working(self, change: int) -> None:
        with self._counting:
            self._num_working += change

    def _score(
        self, index: int, rollout: SubmittedRollout, client: Client, room: int | None
    ) -> _Explained:
        """Scores and grades one rollout.

        Args:
            index: of the rollout in its request.
            room: tokens that it may have; None: as many as it has.
        """
        engine, prompt, response, encoded, logprobs = self._score_on_engine(
            index, rollout, client, room
        )
        label = rollout.label
        text = engine.tokenizer.make_graded_text(prompt, response)
        try:
            verdict = client.deadline.wait_for(self._graders.submit(text, label))
        except RequestTimedOut:
            raise
        except Exception as error:
            raise ScoringFailed(f"a grader failed: {one_line(error)}") from error
        likelihood = Likelihood.from_logprobs(encoded, logprobs)
        sample = Sample(prompt, text, label, verdict, likelihood)
        reward = combine(verdict, likelihood, sar_weight=self._sar_weight, mode=label.mode).value
        tokens = explain_tokens(engine.tokenizer, response, encoded, logprobs)
        explanation = Explanation(prompt, response, tokens, likelihood, verdict, reward)
        scored = Scored(sample, explanation)
        if composition := self._composition:
            scored = _call_terms(lambda: score_alone(composition, scored))
        return _Explained(scored, engine.version)

    def _score_on_engine(
        self, index: int, rollout: SubmittedRollout, client: Client, room: int | None
    ) -> tuple[Engine, str, str, EncodedRollout, Logprobs]:
        """Scores one rollout with the engine in service, or with the one that replaces it."""
        last: Engine | None = None
        while True:
            if client.is_gone():
                raise ClientGone("the client has gone")
            engine = self._wait_for_engine(client)
            if self._is_closed or engine is last:
                raise NotReady("the server is stopping")
            last = engine
            try:
                prompt, response = engine.tokenizer.split(rollout.query, rollout.prompt)
            except ValueError as error:
                raise InvalidRequest(f"query[{index}]: {error}", f"query[{index}]") from error
            needs = NO_NEEDS
            if self._composition and rollout.label.mode == "train":
                needs = self._composition.needs
            encoded = engine.tokenizer.encode(
                prompt, response, needs=needs, reference=rollout.label.answer
            )
            num_tokens = len(encoded.sequences[0].response_ids) if encoded.sequences else 0
            if room is not None and num_tokens > room:
                raise TooLarge(
                    f"the responses up to query[{index}] have more than {_MAX_TOKENS} tokens: send "
                    "fewer rollouts",
                    f"query[{index}]",
                )
            future = engine.batcher.submit_behind(encoded.sequences, client.is_gone)
            try:
                return engine, prompt, response, encoded, client.deadline.wait_for(future)
            except BatcherClosed:
                continue
            finally:
                future.cancel()

    def _wait_for_engine(self, client: Client) -> Engine:
        try:
            return self._engines.wait_for_current(client.deadline.wait_for)
        except RequestTimedOut as error:
            raise NotReady("the model is still loading") from error

    def _compose(self, explained: Sequence[_Explained]) -> list[ExplainedRollout]:
        """Gives the rollouts the reward of the reward file."""
        composition = self._composition
        assert composition is not None
        scored = [one.scored for one in explained]
        composed = _call_terms(lambda: compose_rewards(composition, scored))
        return [
            one.finish(explanation) for one, explanation in zip(explained, composed, strict=True)
        ]


def _call_terms(call: Callable[[], _T]) -> _T:
    try:
        return call()
    except TermError as error:
        raise ScoringFailed(str(error)) from error
