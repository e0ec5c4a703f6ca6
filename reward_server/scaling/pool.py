"""The front's scorers on Ray: has them load models, and gives their batchers to them.

Scorers come and go by themselves. One that starts loads the models in service before it gets a job.
If the process that talks to Ray ends, as it does when the cluster's head is lost, it is started
again until Ray answers, and the scorers load the same models again.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from reward_server.observe.status import ScorerStatus
from reward_server.pipeline.workers import ScorerLost
from reward_server.scaling.connection import DriverProcess
from reward_server.scaling.messages import (
    AddScorer,
    CallLost,
    Connected,
    Lost,
    NotConnected,
    Returned,
    Running,
    Start,
    StopScorer,
)
from reward_server.scaling.models import Models
from reward_server.scaling.options import ScalingOptions
from reward_server.scaling.shared import ConnectionLost, Shared, fail
from reward_server.scaling.states import Scorer
from reward_server.weights.remote import RemoteModel
from sar.errors import one_line

# Pauses before the process that talks to Ray is started again.
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 15.0
_END_TIMEOUT_S = 15.0

_log = logging.getLogger(__name__)


class ScorerPool:
    """All scorers of this server. Safe to use from several threads."""

    def __init__(
        self, options: ScalingOptions, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """
        Args:
            is_stopping: tells that `load` does not wait for scorers any more.
        """
        self._options = options
        self._shared = Shared(options.pack_timeout_s)
        self._models = Models(self._shared, self._end_scorer, is_stopping)
        self._numbers = itertools.count()
        self._was_connected = False
        with self._shared.changed:
            for _ in range(options.num_scorers):
                self._add()
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)
        self._thread.start()

    @property
    def _where(self) -> str:
        return self._options.ray_address or "started here"

    def load(self, path: str) -> RemoteModel:
        """Has all scorers load a model; see `Models.load`."""
        return self._models.load(path)

    def set_num(self, num: int) -> int:
        """Starts or ends scorers until there are `num`. Returns how many are in service.

        One that ends first finishes its pack.
        """
        with self._shared.changed:
            staying = [s for s in self._shared.scorers.values() if not s.is_leaving]
            _log.info("%d scorers are wanted, in place of %d", num, len(staying))
            for _ in range(num - len(staying)):
                self._add()
            newest = self._shared.newest
            staying.sort(key=lambda s: (s.find_state(newest) == "up", -s.number))
            for scorer in staying[: max(0, len(staying) - num)]:
                self._remove(scorer)
            return self._count_up()

    @property
    def num_not_loaded(self) -> int:
        """Loads that failed on a scorer."""
        return self._shared.num_not_loaded

    @property
    def num_up(self) -> int:
        """How many scorers are in service."""
        with self._shared.changed:
            return self._count_up()

    def describe(self, version: int) -> list[ScorerStatus]:
        """
        Args:
            version: policy version of the weights in service.
        """
        with self._shared.changed:
            described = []
            for scorer in self._shared.scorers.values():
                state = scorer.find_state(self._shared.newest)
                if state == "up":
                    scorer.version = version
                described.append(
                    ScorerStatus(
                        id=scorer.number,
                        node=scorer.place.node if scorer.place else "",
                        state=state,
                        busy_share=scorer.counters.busy_share if state == "up" else 0.0,
                        tokens=scorer.counters.num_tokens,
                        policy_version=scorer.version,
                        restarts=scorer.num_restarts,
                    )
                )
            return described

    def close(self) -> None:
        """Ends all scorers, and Ray if this server started it."""
        with self._shared.changed:
            self._shared.is_closed = True
            self._shared.changed.notify_all()
            driver = self._shared.driver
        if driver:
            driver.stop()
        self._thread.join(_END_TIMEOUT_S)

    def _count_up(self) -> int:
        newest = self._shared.newest
        return sum(scorer.find_state(newest) == "up" for scorer in self._shared.scorers.values())

    def _add(self) -> None:
        scorer = Scorer(next(self._numbers))
        self._shared.scorers[scorer.number] = scorer
        self._shared.send(AddScorer(scorer.number))

    def _remove(self, scorer: Scorer) -> None:
        scorer.is_leaving = True
        for key, worker in scorer.workers.items():
            if batcher := self._shared.models[key].batcher:
                batcher.remove_scorer(worker)
        if not scorer.workers:
            self._end_scorer(scorer)

    def _end_scorer(self, scorer: Scorer) -> None:
        if self._shared.scorers.pop(scorer.number, None):
            self._shared.send(StopScorer(scorer.number))
            fail(self._models.forget_run(scorer), ScorerLost("the scorer was removed"))
            self._shared.changed.notify_all()

    def _run(self) -> None:
        """Starts the process that talks to Ray, receives from it, and starts it again."""
        pause_s = _FIRST_PAUSE_S
        while not self._shared.is_closed:
            try:
                driver = DriverProcess()
            except (OSError, RuntimeError) as error:  # no memory, descriptors or threads are left
                _log.error("the process that talks to Ray does not start: %s", one_line(error))
                pause_s = self._pause(pause_s)
                continue
            self._begin(driver)
            was_connected = self._receive(driver)
            with self._shared.changed:
                self._shared.driver, self._shared.is_connected = None, False
                scorers = list(self._shared.scorers.values())
                lost = [self._models.forget_run(scorer) for scorer in scorers]
                for scorer in scorers:
                    if scorer.is_leaving:
                        del self._shared.scorers[scorer.number]
                self._shared.changed.notify_all()
            for calls in lost:
                fail(calls, ConnectionLost("the connection to Ray is lost"))
            driver.end()
            if self._shared.is_closed or self._shared.fault:
                return
            if was_connected:
                pause_s = _FIRST_PAUSE_S
                _log.error("the connection to Ray is lost, and all scorers with it")
            _log.warning("no Ray (%s): it is tried again in %.0f s", self._where, pause_s)
            pause_s = self._pause(pause_s)

    def _pause(self, seconds: float) -> float:
        """Waits, unless the pool is closed. Returns the seconds of the next pause."""
        with self._shared.changed:
            self._shared.changed.wait_for(lambda: self._shared.is_closed, seconds)
        return min(2 * seconds, _MAX_PAUSE_S)

    def _begin(self, driver: DriverProcess) -> None:
        """Has a new process start all scorers."""
        _log.info("Ray (%s): connecting, which may take a minute", self._where)
        driver.send(Start(self._options))
        with self._shared.changed:
            self._shared.driver = driver
            for number in self._shared.scorers:
                driver.send(AddScorer(number))
            if self._shared.is_closed:
                driver.stop()

    def _receive(self, driver: DriverProcess) -> bool:
        """Handles messages until the process ends. Returns whether Ray was there."""
        was_connected = False
        while True:
            try:
                message = driver.receive()
            except EOFError:
                return was_connected
            if isinstance(message, Connected):
                was_connected = self._was_connected = True
                self._note_ray()
                num_gpus = message.num_gpus_per_scorer
                _log.info("Ray (%s): %g GPUs for each scorer", self._where, num_gpus)
            elif isinstance(message, NotConnected):
                self._note_no_ray(message)
            else:
                self._handle(message)

    def _note_ray(self) -> None:
        """Ray is there: from now on, it looks for places for the scorers."""
        with self._shared.changed:
            self._shared.is_connected = True
            for scorer in self._shared.scorers.values():
                scorer.waits_since_s = time.monotonic()

    def _note_no_ray(self, message: NotConnected) -> None:
        if not message.is_final or self._was_connected:
            _log.error("Ray (%s): %s", self._where, message.reason)
            return
        with self._shared.changed:
            self._shared.fault = message.reason
            self._shared.changed.notify_all()

    def _handle(self, message: Any) -> None:
        if isinstance(message, Returned | CallLost):
            self._shared.end_call(message)
            return
        with self._shared.changed:
            if not (scorer := self._shared.scorers.get(message.scorer)):
                return
            if isinstance(message, Running):
                self._begin_run(scorer, message)
                return
            assert isinstance(message, Lost)
            calls = self._models.forget_run(scorer)
            self._shared.changed.notify_all()
            if scorer.is_leaving:
                self._end_scorer(scorer)
        _log.error("scorer %d is lost: %s", scorer.number, message.reason)
        fail(calls, ScorerLost(message.reason))

    def _begin_run(self, scorer: Scorer, place: Running) -> None:
        scorer.place, scorer.waits_since_s = place, None
        scorer.num_restarts += scorer.has_started
        scorer.has_started = True
        _log.info("scorer %d runs on %s, process %d", scorer.number, place.node, place.pid)
        self._models.begin_run(scorer)
        self._shared.changed.notify_all()
