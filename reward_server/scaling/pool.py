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
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from reward_server.observe.status import ScorerStatus
from reward_server.pipeline.batcher import Batcher, ScorerLost
from reward_server.pipeline.jobs import Logprobs
from reward_server.scaling.actor import Loaded, NotLoaded, NotScored, Scored
from reward_server.scaling.connection import DriverProcess
from reward_server.scaling.files import list_files
from reward_server.scaling.messages import (
    AddScorer,
    Call,
    CallLost,
    Connected,
    Forget,
    Lost,
    NotConnected,
    RestartScorer,
    Returned,
    Running,
    Start,
    StopScorer,
)
from reward_server.scaling.options import ScalingOptions
from reward_server.scaling.packs import decode_results, encode_pack
from reward_server.scaling.states import FIRST_RETRY_S, MAX_RETRY_S, Model, Refusal, Scorer
from reward_server.weights.remote import LoadFailed, RemoteModel
from sar.scoring import TokenSequence

# Pauses before the process that talks to Ray is started again.
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 15.0
# How often loads that failed are looked at.
_TICK_S = 1.0
# A model is not loaded once a scorer has ended so many times while it loaded it.
_MAX_ENDED = 3
_ROOM_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 15.0

_log = logging.getLogger(__name__)


class ConnectionLost(ScorerLost):
    """The connection to Ray is lost, and all scorers with it."""


class ScorerPool:
    """All scorers of this server. Safe to use from several threads."""

    def __init__(self, options: ScalingOptions) -> None:
        self._options = options
        self._changed = threading.Condition()
        self._scorers: dict[int, Scorer] = {}
        self._models: dict[int, Model] = {}
        self._numbers = itertools.count()
        self._keys = itertools.count(1)
        self._calls = itertools.count(1)
        self._driver: DriverProcess | None = None
        self._is_closed = False
        self._fault = ""
        """Why there can be no scorers, now or later."""
        self.num_not_loaded = 0
        """Loads that failed on a scorer."""
        with self._changed:
            for _ in range(options.num_scorers):
                self._add()
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)
        self._thread.start()
        threading.Thread(target=self._retry_loads, name="ray-retry", daemon=True).start()

    # Models

    def load(self, path: str) -> RemoteModel:
        """Has all scorers load a model. Returns once each scorer that runs has loaded it, or could
        not: those are out of service until they can.

        Raises:
            LoadFailed: none could.
        """
        model = Model(next(self._keys), path, list_files(path))
        with self._changed:
            self._models[model.key] = model
            for scorer in self._scorers.values():
                self._begin_load(scorer, model)
            self._changed.wait_for(lambda: self._is_decided(model))
            loaded = self._list_loaded(model)
            if not loaded:
                failure = model.last_failure or NotLoaded(self._fault or "the server stops", True)
                self._drop(model)
                raise LoadFailed(failure.reason, failure.may_pass)
            model.facts = loaded[0].loaded[model.key]
            for other in loaded:
                self._compare(other, model)
        return RemoteModel(
            model.facts,
            serve=lambda batcher: self._serve(model, batcher),
            unload=lambda: self._unload(model),
            has_room_for_copy=lambda: self._has_room(model),
        )

    def _is_decided(self, model: Model) -> bool:
        if self._is_closed or self._fault:
            return True
        running = [s for s in self._scorers.values() if s.place and not s.is_leaving]
        if any(model.key in scorer.loading for scorer in running):
            return False
        if self._list_loaded(model) or max(model.num_ended.values(), default=0) >= _MAX_ENDED:
            return True
        return bool(running) and all(model.key in scorer.refused for scorer in running)

    def _list_loaded(self, model: Model) -> list[Scorer]:
        return [s for s in self._scorers.values() if model.key in s.loaded and not s.is_leaving]

    def _begin_load(self, scorer: Scorer, model: Model) -> None:
        if not scorer.place or scorer.is_leaving or model.key in scorer.loading:
            return
        scorer.loading.add(model.key)
        run = scorer.place.run
        future = self._call(scorer, "load", model.key, model.path, model.files)
        future.add_done_callback(lambda done: self._end_load(scorer, run, model, done))

    def _end_load(self, scorer: Scorer, run: int, model: Model, done: Future[Any]) -> None:
        with self._changed:
            is_same_run = scorer.place is not None and scorer.place.run == run
            scorer.loading.discard(model.key)
            if error := done.exception():
                if not isinstance(error, ConnectionLost):
                    self._note_ended(scorer, model, str(error))
            elif is_same_run and self._models.get(model.key) is model:
                self._take_load(scorer, model, done.result())
            self._changed.notify_all()

    def _note_ended(self, scorer: Scorer, model: Model, reason: str) -> None:
        model.num_ended[scorer.number] += 1
        text = f"the scorer ended while it loaded: {reason}"
        model.last_failure = NotLoaded(text, may_pass=True)
        self.num_not_loaded += 1
        _log.error("scorer %d ended while it loaded %s", scorer.number, model.path)

    def _take_load(self, scorer: Scorer, model: Model, result: Loaded | NotLoaded) -> None:
        if isinstance(result, NotLoaded):
            self._refuse(scorer, model, result)
            return
        scorer.refused.pop(model.key, None)
        scorer.loaded[model.key] = result.facts
        if model.facts is not None:
            self._compare(scorer, model)
        self._attach(scorer, model)

    def _refuse(self, scorer: Scorer, model: Model, failure: NotLoaded) -> None:
        """Keeps a scorer out of service for a model."""
        before = scorer.refused.get(model.key)
        retry_s = min(2 * before.retry_s, MAX_RETRY_S) if before else FIRST_RETRY_S
        scorer.refused[model.key] = Refusal(failure, time.monotonic() + retry_s, retry_s)
        model.last_failure = failure
        self.num_not_loaded += 1
        _log.error(
            "scorer %d did not load %s: %s; it is tried again in %.0f s, unless none could",
            scorer.number, model.path, failure.reason, retry_s,
        )  # fmt: skip

    def _compare(self, scorer: Scorer, model: Model) -> None:
        """Refuses what would not give the rewards that the other scorers give."""
        assert model.facts is not None
        own, facts = scorer.loaded[model.key], model.facts
        limits = [one["max_context_tokens"] or float("inf") for one in (own, facts)]
        if own["architecture"] != facts["architecture"]:
            reason = "it is another model there than on the other scorers"
        elif limits[0] < limits[1]:
            reason = f"its context there is {limits[0]} tokens, and {limits[1]} on other scorers"
        else:
            return
        del scorer.loaded[model.key]
        self._call(scorer, "unload", model.key)
        self._refuse(scorer, model, NotLoaded(reason, may_pass=True))

    def _attach(self, scorer: Scorer, model: Model) -> None:
        """Lets a scorer take jobs for a model."""
        if not (model.batcher and model.key in scorer.loaded and scorer.place):
            return
        if model.key in scorer.workers or scorer.is_leaving:
            return
        run = scorer.place.run
        worker = model.batcher.add_scorer(
            _RemoteScorer(self, scorer, run, model),
            scorer.counters,
            on_faulty=lambda: self._restart(scorer, run),
            on_end=lambda: self._let_go(scorer, run, model.key),
        )
        if worker:
            scorer.workers[model.key] = worker

    def _serve(self, model: Model, batcher: Batcher) -> None:
        with self._changed:
            model.batcher = batcher
            for scorer in self._scorers.values():
                self._attach(scorer, model)

    def _unload(self, model: Model) -> None:
        with self._changed:
            self._drop(model)

    def _drop(self, model: Model) -> None:
        self._models.pop(model.key, None)
        for scorer in self._scorers.values():
            for of_run in (scorer.refused, scorer.workers):
                of_run.pop(model.key, None)
            was_there = scorer.loaded.pop(model.key, None) is not None
            if scorer.place and (was_there or model.key in scorer.loading):
                self._call(scorer, "unload", model.key)
        self._send(Forget(model.key))

    def _has_room(self, model: Model) -> bool:
        """Whether each scorer has room for a second model, also with its neighbours' copies."""
        with self._changed:
            loaded = self._list_loaded(model)
            places = Counter((s.place.node_id, s.place.gpus) for s in loaded if s.place)
            calls = [
                self._call(s, "has_room", model.key, places[s.place.node_id, s.place.gpus])
                for s in loaded
                if s.place
            ]
        try:
            ends_at_s = time.monotonic() + _ROOM_TIMEOUT_S
            return all(call.result(max(0.0, ends_at_s - time.monotonic())) for call in calls)
        except (ScorerLost, TimeoutError):
            return False

    # Scorers

    def set_num(self, num: int) -> int:
        """Starts or ends scorers until there are `num`. Returns how many are in service.

        One that ends first finishes its pack.
        """
        with self._changed:
            staying = [s for s in self._scorers.values() if not s.is_leaving]
            for _ in range(num - len(staying)):
                self._add()
            newest = self._newest
            staying.sort(key=lambda s: (s.find_state(newest) == "up", -s.number))
            for scorer in staying[: max(0, len(staying) - num)]:
                self._remove(scorer)
            return self._count_up()

    @property
    def num_up(self) -> int:
        """How many scorers are in service."""
        with self._changed:
            return self._count_up()

    def describe(self, version: int) -> list[ScorerStatus]:
        """
        Args:
            version: policy version of the weights in service.
        """
        with self._changed:
            described = []
            for scorer in self._scorers.values():
                state = scorer.find_state(self._newest)
                if state == "up":
                    scorer.version = version
                described.append(
                    ScorerStatus(
                        id=scorer.number,
                        node=scorer.place.node if scorer.place else "",
                        state=state,
                        busy_share=scorer.counters.busy_share,
                        tokens=scorer.counters.num_tokens,
                        policy_version=scorer.version,
                        restarts=scorer.num_restarts,
                    )
                )
            return described

    def close(self) -> None:
        """Ends all scorers, and Ray if this server started it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            driver = self._driver
        if driver:
            driver.stop()
        self._thread.join(_END_TIMEOUT_S)

    @property
    def _newest(self) -> int | None:
        return max((key for key, model in self._models.items() if model.batcher), default=None)

    def _count_up(self) -> int:
        newest = self._newest
        return sum(scorer.find_state(newest) == "up" for scorer in self._scorers.values())

    def _add(self) -> None:
        scorer = Scorer(next(self._numbers))
        self._scorers[scorer.number] = scorer
        self._send(AddScorer(scorer.number))

    def _remove(self, scorer: Scorer) -> None:
        scorer.is_leaving = True
        for key, worker in scorer.workers.items():
            if batcher := self._models[key].batcher:
                batcher.remove_scorer(worker)
        if not scorer.workers:
            self._end_scorer(scorer)

    def _end_scorer(self, scorer: Scorer) -> None:
        if self._scorers.pop(scorer.number, None):
            self._send(StopScorer(scorer.number))
            _fail(scorer.forget_run(), ScorerLost("the scorer was removed"))
            self._changed.notify_all()

    def _let_go(self, scorer: Scorer, run: int, key: int) -> None:
        """A batcher does not use a scorer any more."""
        with self._changed:
            if scorer.place and scorer.place.run == run:
                scorer.workers.pop(key, None)
            if scorer.is_leaving and not scorer.workers:
                self._end_scorer(scorer)

    def _restart(self, scorer: Scorer, run: int) -> None:
        _log.error("scorer %d fails where others do not: it is started again", scorer.number)
        self._send(RestartScorer(scorer.number, run, "it failed where others did not"))

    def _retry_loads(self) -> None:
        while not self._is_closed:
            time.sleep(_TICK_S)
            now_s = time.monotonic()
            with self._changed:
                for scorer in self._scorers.values():
                    for key, refusal in scorer.refused.items():
                        # A load that is not decided yet is not tried again: all may have refused.
                        if now_s >= refusal.retry_at_s and self._models[key].batcher:
                            self._begin_load(scorer, self._models[key])

    # Messages

    def call_score(self, scorer: Scorer, run: int, key: int, pack: bytes) -> Future[Any]:
        """
        Raises:
            ScorerLost: this run of the scorer has ended.
        """
        with self._changed:
            if not scorer.place or scorer.place.run != run:
                raise ScorerLost("the scorer has ended")
            return self._call(scorer, "score", key, pack)

    def _call(self, scorer: Scorer, method: Any, *arguments: Any) -> Future[Any]:
        assert scorer.place
        number = next(self._calls)
        future: Future[Any] = Future()
        scorer.calls[number] = future
        self._send(Call(number, scorer.number, scorer.place.run, method, arguments))
        return future

    def _send(self, message: Any) -> None:
        if self._driver:
            self._driver.send(message)

    def _run(self) -> None:
        """Starts the process that talks to Ray, receives from it, and starts it again."""
        pause_s = _FIRST_PAUSE_S
        while not self._is_closed:
            driver = DriverProcess()
            driver.send(Start(self._options))
            with self._changed:
                self._driver = driver
                for number in self._scorers:
                    driver.send(AddScorer(number))
            was_connected = self._receive(driver)
            with self._changed:
                self._driver = None
                lost = [(scorer, scorer.forget_run()) for scorer in self._scorers.values()]
                for scorer in [s for s, _ in lost if s.is_leaving]:
                    self._scorers.pop(scorer.number)
                self._changed.notify_all()
            for _, calls in lost:
                _fail(calls, ConnectionLost("the connection to Ray is lost"))
            driver.end()
            if self._is_closed or self._fault:
                return
            if was_connected:
                pause_s = _FIRST_PAUSE_S
                _log.error("the connection to Ray is lost: all scorers are gone")
            _log.warning("the connection to Ray is tried again in %.0f s", pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _receive(self, driver: DriverProcess) -> bool:
        """Handles messages until the process ends. Returns whether Ray was there."""
        was_connected = False
        while True:
            try:
                message = driver.receive()
            except EOFError:
                return was_connected
            if isinstance(message, Connected):
                was_connected = True
                where = self._options.ray_address or "started here"
                _log.info("Ray (%s): %g GPUs for each scorer", where, message.num_gpus_per_scorer)
            elif isinstance(message, NotConnected):
                self._note_no_ray(message)
            else:
                self._handle(message)

    def _note_no_ray(self, message: NotConnected) -> None:
        address = self._options.ray_address
        text = message.reason if message.is_final else f"no Ray at --ray-address {address}: "
        if message.is_final:
            with self._changed:
                self._fault = message.reason
                self._changed.notify_all()
        else:
            _log.error("%s%s", text, message.reason)

    def _handle(self, message: Any) -> None:
        if isinstance(message, Returned | CallLost):
            self._end_call(message)
            return
        with self._changed:
            if not (scorer := self._scorers.get(message.scorer)):
                return
            if isinstance(message, Running):
                self._begin_run(scorer, message)
                return
            assert isinstance(message, Lost)
            batchers = [(self._models[key].batcher, w) for key, w in scorer.workers.items()]
            calls = scorer.forget_run()
            self._changed.notify_all()
            if scorer.is_leaving:
                self._end_scorer(scorer)
        _log.error("scorer %d is lost: %s", scorer.number, message.reason)
        _fail(calls, ScorerLost(message.reason))
        for batcher, worker in batchers:
            if batcher:
                batcher.remove_scorer(worker)

    def _begin_run(self, scorer: Scorer, place: Running) -> None:
        scorer.place = place
        scorer.num_restarts += scorer.has_started
        scorer.has_started = True
        _log.info("scorer %d runs on %s, process %d", scorer.number, place.node, place.pid)
        for model in self._models.values():
            if model.num_ended[scorer.number] < _MAX_ENDED or model.batcher:
                self._begin_load(scorer, model)
        self._changed.notify_all()

    def _end_call(self, message: Returned | CallLost) -> None:
        with self._changed:
            for scorer in self._scorers.values():
                if future := scorer.calls.pop(message.number, None):
                    break
            else:
                return
        if isinstance(message, Returned):
            future.set_result(message.value)
        else:
            future.set_exception(ScorerLost(message.reason))


class _RemoteScorer:
    """A `LogprobScorer` over one model of one scorer on Ray."""

    def __init__(self, pool: ScorerPool, scorer: Scorer, run: int, model: Model) -> None:
        self._pool = pool
        self._scorer = scorer
        self._run = run
        self._model = model

    @property
    def max_context_tokens(self) -> int | None:
        assert self._model.facts is not None
        limit: int | None = self._model.facts["max_context_tokens"]
        return limit

    def response_logprobs(self, sequences: Sequence[TokenSequence]) -> Logprobs:
        """See `LogprobScorer`.

        Raises:
            ScorerLost: the scorer has ended.
            RuntimeError: it failed.
        """
        pack = encode_pack(sequences)
        call = self._pool.call_score(self._scorer, self._run, self._model.key, pack)
        result: Scored | NotScored = call.result()
        if isinstance(result, NotScored):
            raise RuntimeError(result.reason)
        return decode_results(result.results)


def _fail(calls: Sequence[Future[Any]], error: ScorerLost) -> None:
    for call in calls:
        call.set_exception(error)
