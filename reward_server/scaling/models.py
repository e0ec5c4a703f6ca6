"""The models that a pool's scorers load, and their way into service.

A model is loaded on all scorers at once, beside those that are loaded. Each scorer that has loaded
it gets jobs for it from the model's batcher, and each that could not is tried again.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.workers import ScorerLost
from reward_server.scaling.actor import Loaded, NotLoaded
from reward_server.scaling.files import list_files
from reward_server.scaling.messages import Forget, RestartScorer
from reward_server.scaling.remote_scorer import RemoteScorer
from reward_server.scaling.shared import ConnectionLost, Shared
from reward_server.scaling.states import FIRST_RETRY_S, MAX_RETRY_S, Model, Refusal, Scorer
from reward_server.weights.remote import LoadFailed, RemoteModel

# How often loads that failed are looked at.
_TICK_S = 1.0
# A model is not loaded once a scorer has ended so many times while it loaded it.
_MAX_ENDED = 3
_ROOM_TIMEOUT_S = 60.0
# The log names a scorer that has had no place for so long.
_WAITING_S = 60.0
# A load that takes longer hangs, and all scorers would wait for it. A large model's download fits.
_LOAD_TIMEOUT_S = 3600.0

_log = logging.getLogger(__name__)


class Models:
    """All models of a pool. Safe to use from several threads."""

    def __init__(
        self,
        shared: Shared,
        end_scorer: Callable[[Scorer], None],
        is_stopping: Callable[[], bool],
    ) -> None:
        """
        Args:
            end_scorer: ends a scorer that was to leave, and has done its work.
            is_stopping: tells that `load` does not wait any more.
        """
        self._is_stopping = is_stopping
        self._shared = shared
        self._end_scorer = end_scorer
        self._keys = itertools.count(1)
        threading.Thread(target=self._retry_loads, name="ray-retry", daemon=True).start()

    def load(self, path: str) -> RemoteModel:
        """Has all scorers load a model. Returns once each scorer that runs has loaded it, or could
        not: those are out of service until they can.

        Raises:
            LoadFailed: none could.
        """
        model = Model(next(self._keys), path, list_files(path))
        with self._shared.changed:
            self._shared.models[model.key] = model
            for scorer in self._shared.scorers.values():
                self.begin_load(scorer, model)
            while not (self._is_decided(model) or self._is_stopping()):
                self._shared.changed.wait(_TICK_S)
            loaded = self._list_loaded(model)
            if not loaded:
                failure = model.last_failure or NotLoaded(
                    self._shared.fault or "the server is stopping", True
                )
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

    def begin_run(self, scorer: Scorer) -> None:
        """Has a scorer that has just started load what is in service or about to be."""
        for model in self._shared.models.values():
            if model.num_ended[scorer.number] < _MAX_ENDED or model.batcher:
                self.begin_load(scorer, model)

    def forget_run(self, scorer: Scorer) -> list[Future[Any]]:
        """Forgets a run that has ended. Returns its open calls, which `fail` ends."""
        for key, worker in scorer.workers.items():
            if batcher := self._shared.models[key].batcher:
                batcher.remove_scorer(worker)
        return scorer.forget_run()

    def _is_decided(self, model: Model) -> bool:
        if self._shared.is_closed or self._shared.fault:
            return True
        running = [s for s in self._shared.scorers.values() if s.place and not s.is_leaving]
        if any(model.key in scorer.loading for scorer in running):
            return False
        if self._list_loaded(model) or max(model.num_ended.values(), default=0) >= _MAX_ENDED:
            return True
        return bool(running) and all(model.key in scorer.refused for scorer in running)

    def _list_loaded(self, model: Model) -> list[Scorer]:
        return [
            s for s in self._shared.scorers.values() if model.key in s.loaded and not s.is_leaving
        ]

    def begin_load(self, scorer: Scorer, model: Model) -> None:
        if not scorer.place or scorer.is_leaving or model.key in scorer.loading:
            return
        scorer.loading[model.key] = time.monotonic()
        run = scorer.place.run
        future = self._shared.call(scorer, "load", model.key, model.path, model.files)
        future.add_done_callback(lambda done: self._end_load(scorer, run, model, done))

    def _end_load(self, scorer: Scorer, run: int, model: Model, done: Future[Any]) -> None:
        with self._shared.changed:
            is_same_run = scorer.place is not None and scorer.place.run == run
            if is_same_run:
                scorer.loading.pop(model.key, None)
            if error := done.exception():
                if not isinstance(error, ConnectionLost):
                    self._note_ended(scorer, model, str(error))
            elif is_same_run and self._shared.models.get(model.key) is model:
                self._take_load(scorer, model, done.result())
            self._shared.changed.notify_all()

    def _note_ended(self, scorer: Scorer, model: Model, reason: str) -> None:
        model.num_ended[scorer.number] += 1
        text = f"the scorer ended while it loaded: {reason}"
        model.last_failure = NotLoaded(text, may_pass=True)
        self._shared.num_not_loaded += 1
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
        self._shared.num_not_loaded += 1
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
        self._shared.call(scorer, "unload", model.key)
        self._refuse(scorer, model, NotLoaded(reason, may_pass=True))

    def _attach(self, scorer: Scorer, model: Model) -> None:
        """Lets a scorer take jobs for a model. `_retry_loads` tries again if no thread is left."""
        if not (model.batcher and model.key in scorer.loaded and scorer.place):
            return
        if model.key in scorer.workers or scorer.is_leaving:
            return
        run = scorer.place.run
        try:
            worker = model.batcher.add_scorer(
                RemoteScorer(self._shared, scorer, run, model),
                scorer.counters,
                on_faulty=lambda: self._restart(scorer, run),
                on_end=lambda: self._let_go(scorer, run, model.key),
            )
        except RuntimeError as error:
            _log.error("scorer %d gets no jobs yet: %s", scorer.number, error)
            scorer.without_thread[model.key] = model
            return
        if worker:
            scorer.workers[model.key] = worker

    def _serve(self, model: Model, batcher: Batcher) -> None:
        with self._shared.changed:
            model.batcher = batcher
            for scorer in self._shared.scorers.values():
                self._attach(scorer, model)

    def _unload(self, model: Model) -> None:
        with self._shared.changed:
            self._drop(model)

    def _drop(self, model: Model) -> None:
        self._shared.models.pop(model.key, None)
        for scorer in self._shared.scorers.values():
            for of_run in (scorer.refused, scorer.workers, scorer.without_thread):
                of_run.pop(model.key, None)
            was_there = scorer.loaded.pop(model.key, None) is not None
            if scorer.place and (was_there or model.key in scorer.loading):
                self._shared.call(scorer, "unload", model.key)
        self._shared.send(Forget(model.key))

    def _has_room(self, model: Model) -> bool:
        """Whether each scorer has room for a second model, also with its neighbours' copies."""
        with self._shared.changed:
            loaded = self._list_loaded(model)
            places = Counter((s.place.node_id, s.place.gpus) for s in loaded if s.place)
            calls = [
                self._shared.call(s, "has_room", model.key, places[s.place.node_id, s.place.gpus])
                for s in loaded
                if s.place
            ]
        try:
            ends_at_s = time.monotonic() + _ROOM_TIMEOUT_S
            return all(call.result(max(0.0, ends_at_s - time.monotonic())) for call in calls)
        except (ScorerLost, TimeoutError):
            return False

    def _let_go(self, scorer: Scorer, run: int, key: int) -> None:
        """A batcher does not use a scorer any more."""
        with self._shared.changed:
            if scorer.place and scorer.place.run == run:
                scorer.workers.pop(key, None)
            if scorer.is_leaving and not scorer.workers:
                self._end_scorer(scorer)

    def _restart(self, scorer: Scorer, run: int) -> None:
        _log.error("scorer %d fails where others do not: it is started again", scorer.number)
        with self._shared.changed:
            self._shared.send(RestartScorer(scorer.number, run, "it failed where others did not"))

    def _retry_loads(self) -> None:
        while not self._shared.is_closed:
            time.sleep(_TICK_S)
            now_s = time.monotonic()
            with self._shared.changed:
                for scorer in self._shared.scorers.values():
                    self._tell_that_it_waits(scorer, now_s)
                    self._end_hung_loads(scorer, now_s)
                    for _ in range(len(scorer.without_thread)):
                        self._attach(scorer, scorer.without_thread.popitem()[1])
                    for key, refusal in scorer.refused.items():
                        # A load that is not decided yet is not tried again: all may have refused.
                        if now_s >= refusal.retry_at_s and self._shared.models[key].batcher:
                            self.begin_load(scorer, self._shared.models[key])

    def _tell_that_it_waits(self, scorer: Scorer, now_s: float) -> None:
        since_s = scorer.waits_since_s
        if not self._shared.is_connected or since_s is None or now_s - since_s < _WAITING_S:
            return
        scorer.waits_since_s = None  # said once
        _log.warning(
            "scorer %d waits: Ray has found no room for it in %.0f s, or is slow to start it",
            scorer.number, _WAITING_S,
        )  # fmt: skip

    def _end_hung_loads(self, scorer: Scorer, now_s: float) -> None:
        """Has a scorer that hangs in a load started again."""
        if (
            not scorer.place
            or now_s - min(scorer.loading.values(), default=now_s) < _LOAD_TIMEOUT_S
        ):
            return
        scorer.loading = dict.fromkeys(scorer.loading, now_s)  # said once
        reason = f"it did not load a model within {_LOAD_TIMEOUT_S:.0f} s"
        _log.error("scorer %d: %s: it is started again", scorer.number, reason)
        self._shared.send(RestartScorer(scorer.number, scorer.place.run, reason))
