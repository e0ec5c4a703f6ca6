"""The reward service: admits a request, lends it an engine, and counts its rewards."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

from reward_server.errors import NotReady, RequestTimedOut
from reward_server.observe.metrics import Metrics
from reward_server.observe.reward_log import RewardLog
from reward_server.observe.status import ScorerStatus, Status
from reward_server.observe.watch import Watch
from reward_server.pipeline.admission import Admission
from reward_server.pipeline.batch_counters import BatcherCounters
from reward_server.pipeline.composer import Composer
from reward_server.pipeline.engine import Engine, EngineSlot
from reward_server.pipeline.explaining import Explaining
from reward_server.pipeline.intake import Intake
from reward_server.pipeline.request import RewardRequest, SharedParts
from reward_server.pipeline.rollout import ScoredRollout, SubmittedRollout
from reward_server.pipeline.waiting import IN_THREADS, Client, Deadline, Waiting
from reward_server.pipeline.workers import QueueState
from sar.grading.processes.pool import GraderPool
from sar.terms.composition import Composition

_POLL_S = 0.05

_log = logging.getLogger(__name__)


class DescribedScorers(Protocol):
    """Scorers elsewhere, as far as the status shows them."""

    @property
    def num_not_loaded(self) -> int:
        """Loads that failed on a scorer."""

    def describe(self, version: int) -> list[ScorerStatus]:
        """
        Args:
            version: policy version of the weights in service.
        """


@dataclass(frozen=True)
class ServiceLimits:
    """How much the server holds at once, and how long."""

    request_timeout_s: float
    max_queued_tokens: int


class RewardService:
    """Computes rewards.

    A request that arrives before the model is loaded waits for it: OpenRLHF's client gives up
    after five refusals, and then the run is lost.
    """

    def __init__(
        self,
        graders: GraderPool,
        *,
        sar_weight: float,
        limits: ServiceLimits,
        composition: Composition | None = None,
        waiting: Waiting = IN_THREADS,
        metrics: Metrics | None = None,
        reward_log: RewardLog | None = None,
        watch: Watch | None = None,
        scorers: DescribedScorers | None = None,
    ) -> None:
        """
        Args:
            scorers: those on Ray, for the status; None: there are none.
        """
        self.metrics = metrics or Metrics()
        self.waiting = waiting
        self.engines = EngineSlot()
        self.counters = BatcherCounters()
        """Counters that every engine's batcher continues."""
        self.intake = Intake()
        self.composition = composition
        """The reward of a reward file. None: it is correctness + `sar_weight` x SAR."""
        composer = Composer(composition, self.intake, waiting) if composition else None
        self._parts = SharedParts(graders, sar_weight, self.intake, waiting, self.metrics, composer)
        self.explaining = Explaining(
            self.engines, graders, sar_weight=sar_weight, composition=composition
        )
        """Explains rollouts, behind all rewards."""
        self._request_timeout_s = limits.request_timeout_s
        self._admission = Admission(limits.max_queued_tokens)
        self._reward_log = reward_log
        self._watch = watch
        self._scorers = scorers
        self._num_rollouts = 0
        self._num_unreadable_labels = 0
        self._has_warned_of_mismatch = False
        self._counting = threading.Lock()
        self.metrics.read_from(lambda: self.status)

    @property
    def state(self) -> Literal["loading", "ready", "failing", "no scorer is up"]:
        """ "failing": a model is loaded, but the scorer fails again and again. "no scorer is up":
        all are lost; requests wait until one is back."""
        if not (engine := self.engines.current):
            return "loading"
        if not engine.batcher.num_scorers:
            return "no scorer is up"
        return "failing" if engine.batcher.is_failing else "ready"

    @property
    def status(self) -> Status:
        """All counters, read from the parts that keep them."""
        engine = self.engines.current
        done = engine.batcher.counters if engine else self.counters
        queue = engine.batcher.queue if engine else QueueState(0, 0, 0.0)
        path = engine.scoring_path if engine else None
        cohorts = self._parts.composer.cohorts if self._parts.composer else None
        held = cohorts.state if cohorts else None
        checkpoints, looked_at_s = self.engines.checkpoints, self.engines.checkpoints.looked_at_s
        return Status(
            ready=self.state == "ready",
            rollouts=self._num_rollouts,
            in_flight=self._admission.num_in_flight,
            queued_rollouts=queue.num_rollouts,
            queued_tokens=queue.num_tokens,
            oldest_queued_s=queue.oldest_s,
            unreadable_labels=self._num_unreadable_labels,
            batches=done.num_batches,
            sequences=done.num_sequences,
            tokens=done.num_tokens,
            abandoned=done.num_abandoned + self.intake.num_abandoned,
            busy_s=done.busy_s,
            busy_share=done.find_busy_share(engine.batcher.num_scorers if engine else 1),
            grader_restarts=self._parts.graders.num_restarts,
            checkpoints_refused=checkpoints.num_refused,
            checkpoint_failures=checkpoints.num_not_loaded + checkpoints.num_failed_looks,
            checkpoints_incomplete=checkpoints.num_incomplete,
            follow_newest_step=checkpoints.newest_step,
            follow_look_age_s=0.0 if looked_at_s is None else time.monotonic() - looked_at_s,
            decisions_not_logged=self._reward_log.num_dropped if self._reward_log else 0,
            decisions_not_watched=self._watch.num_dropped if self._watch else 0,
            held_rollouts=held.num_held if held else 0,
            held_chars=held.num_chars if held else 0,
            groups=held.num_settled if held else 0,
            groups_incomplete=held.num_incomplete if held else 0,
            rollouts_again=held.num_retries if held else 0,
            policy_version=engine.version if engine else 0,
            policy_age_s=time.monotonic() - engine.loaded_at_s if engine else 0.0,
            scoring_path=path.name if path else "",
            scoring_path_reason=path.reason if path else "",
            scorers=tuple(
                self._scorers.describe(engine.version if engine else 0) if self._scorers else ()
            ),
            scorer_load_failures=self._scorers.num_not_loaded if self._scorers else 0,
        )

    def new_client(
        self, is_gone: Callable[[], bool] = lambda: False, request_id: str = ""
    ) -> Client:
        """A client whose time for an answer starts now."""
        return Client(Deadline(self._request_timeout_s, self.waiting), is_gone, request_id)

    def compute_rewards(
        self, rollouts: Sequence[SubmittedRollout], client: Client
    ) -> list[ScoredRollout]:
        """The rewards of one request, in the order of its rollouts.

        Raises:
            NotReady: the model did not load in time, or the server is stopping.
            Overloaded: the server holds as many tokens as it may.
            ClientGone, InvalidRequest, RequestTimedOut, ScoringFailed: see `RewardRequest`.
        """
        if not rollouts:
            return []

        def wait_for_engine(loading: Future[Engine]) -> Engine:
            try:
                return client.deadline.wait_for(loading)
            except RequestTimedOut as error:
                raise NotReady("the model is still loading") from error

        with self._admission.admit(rollouts):
            request = RewardRequest(rollouts, self._parts, client)
            scored = request.compute_rewards(lambda: self.engines.borrow(wait_for_engine))
            self._count(scored)
            self._record(request)
        return scored

    def end_waiting(self, timeout_s: float) -> None:
        """Refuses the rollouts that wait for siblings, as the server stops: their clients ask the
        next one. First it waits for those in flight, which may complete a group. Explanations are
        refused at once."""
        self.explaining.close()
        if not (composer := self._parts.composer):
            return
        deadline_s = time.monotonic() + timeout_s
        while self._admission.num_in_flight > composer.num_waiting:
            if time.monotonic() > deadline_s:
                break
            time.sleep(_POLL_S)
        composer.close()

    @property
    def is_computing_terms(self) -> bool:
        """Whether a thread computes a term or explains a rollout, perhaps for a request that does
        not wait any more."""
        is_composing = self._parts.composer is not None and self._parts.composer.is_computing
        return is_composing or self.explaining.is_working

    def _record(self, request: RewardRequest) -> None:
        """Puts the decisions of a request in the queues of the reward log and of the watch."""
        if self._reward_log is None and self._watch is None:
            return
        for decision in self.waiting.in_turns(request.record_decisions()):
            if self._reward_log:
                self._reward_log.record([decision])
            if self._watch:
                self._watch.offer(decision)

    def _count(self, scored: Sequence[ScoredRollout]) -> None:
        num_unreadable = sum(one.reward.verdict.label_unreadable for one in scored)
        has_mismatch = any(one.template_mismatch for one in scored)
        with self._counting:
            self._num_rollouts += len(scored)
            self._num_unreadable_labels += num_unreadable
            must_warn = has_mismatch and not self._has_warned_of_mismatch
            self._has_warned_of_mismatch |= has_mismatch
        if must_warn:
            _log.warning(
                "a prompt's system prompt or chat template differs from that of the empty-question "
                "prompt, so SAR measures more than the question: check --system-prompt and "
                "--model (logged once; template_mismatch in extra_logs marks each such rollout)"
            )
