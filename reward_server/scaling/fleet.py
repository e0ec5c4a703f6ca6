"""The actors on Ray: starts them, starts them again when they end, and passes calls on.

All methods run in one thread, unless they say otherwise. What takes long, or may block while Ray is
not well, runs in others: the packs of the other scorers go on meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from reward_server.scaling.actor import GROUPS, NotLoaded, ScorerActor
from reward_server.scaling.files import Parts, split_files
from reward_server.scaling.messages import Call, CallLost, Lost, Returned, Running
from reward_server.scaling.options import ScalingOptions
from sar.errors import MAX_MESSAGE_CHARS, one_line

# A scorer that ran for less than this is started again only after a pause, which grows.
_SOON_S = 30.0
_MAX_PAUSE_S = 30.0
_MAX_DOUBLINGS = 10
_GROUPS_OF = {"score": "score", "load": "load", "unload": "load", "has_room": "load"}


@dataclass(eq=False)
class _Scorer:
    number: int
    run: int = 0
    handle: Any = None
    methods: dict[str, Any] = field(default_factory=dict)
    is_running: bool = False
    started_s: float = 0.0
    num_short_runs: int = 0
    is_stopped: bool = False


class Fleet:
    """All scorers of one front."""

    def __init__(
        self,
        ray: Any,
        options: ScalingOptions,
        num_gpus: float,
        send: Callable[[Any], None],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        """
        Args:
            num_gpus: of each scorer.
            send: sends a message to the front, from any thread.
            post: has a function called in the thread of this fleet, from any thread.
        """
        self._ray = ray
        self._options = options
        self._num_gpus = num_gpus
        self._send = send
        self._post = post
        self._actor_class: Any = None
        self._scorers: dict[int, _Scorer] = {}
        self._parts: dict[int, Parts] = {}
        self._creating = ThreadPoolExecutor(1, "creating")
        self._reading = ThreadPoolExecutor(1, "reading")

    def add(self, number: int) -> None:
        """Starts a scorer."""
        self._scorers[number] = _Scorer(number)
        self._start(self._scorers[number])

    def stop(self, number: int) -> None:
        """Ends a scorer for good."""
        if scorer := self._scorers.pop(number, None):
            scorer.is_stopped = True
            self._kill(scorer)

    def restart(self, number: int, run: int, reason: str) -> None:
        """Ends a run of a scorer; another follows."""
        if scorer := self._scorers.get(number):
            self._lose(scorer, run, reason)

    def call(self, call: Call) -> None:
        """Calls a method of a scorer, and sends the front what it returns."""
        scorer = self._scorers.get(call.scorer)
        if not scorer:
            self._send(CallLost(call.number, "the scorer was removed"))
        elif call.method == "load" and self._options.weights == "sent":
            self._reading.submit(self._read_and_load, scorer, call)
        elif call.method == "unload" and self._options.weights == "sent":  # not before its load
            self._reading.submit(self._post, lambda: self._call(scorer, call))
        else:
            self._call(scorer, call)

    def forget(self, key: int) -> None:
        """Frees the memory of a model's files in Ray's object store."""
        self._reading.submit(self._parts.pop, key, None)

    def _read_and_load(self, scorer: _Scorer, call: Call) -> None:
        """In the thread that reads: puts a model's files in Ray's object store, once for all."""
        key, path, files = call.arguments
        try:
            if files and key not in self._parts:
                self._parts[key] = split_files(path, files, self._ray.put)
        except Exception as error:  # noqa: BLE001  the disk's, or Ray's: too little memory
            reason = one_line(error, MAX_MESSAGE_CHARS)
            self._send(Returned(call.number, NotLoaded(reason, may_pass=True)))
            return
        # A Hugging Face id has no files here: each scorer downloads it.
        parts = self._parts.get(key)
        with_parts = call._replace(arguments=(*call.arguments, parts))
        self._post(lambda: self._call(scorer, with_parts))

    def _call(self, scorer: _Scorer, call: Call) -> None:
        if scorer.run != call.run or not scorer.is_running:
            self._send(CallLost(call.number, "the scorer has ended"))
            return
        try:
            result = scorer.methods[call.method](*call.arguments)
        except Exception as error:  # noqa: BLE001  Ray has no memory left for the arguments, say
            reason = one_line(error, MAX_MESSAGE_CHARS)
            self._send(CallLost(call.number, reason))
            self._lose(scorer, call.run, reason)
            return
        result.future().add_done_callback(lambda future: self._pass_result_on(scorer, call, future))

    def _pass_result_on(self, scorer: _Scorer, call: Call, future: Future[Any]) -> None:
        """In a thread of Ray's."""
        if error := future.exception():
            reason = one_line(error, MAX_MESSAGE_CHARS)
            self._send(CallLost(call.number, reason))
            self._post(lambda: self._lose(scorer, call.run, reason))
        else:
            self._send(Returned(call.number, future.result()))

    def _start(self, scorer: _Scorer) -> None:
        """Begins a run. Ray places it once there is room for it."""
        if scorer.is_stopped:
            return
        scorer.run += 1
        scorer.started_s = time.monotonic()
        run = scorer.run

        def create() -> None:
            try:
                handle = self._create()
                described = handle.describe.options(concurrency_group="watch").remote().future()
            except Exception as error:  # noqa: BLE001  Ray raises anything
                reason = one_line(error, MAX_MESSAGE_CHARS)
                self._post(lambda: self._lose(scorer, run, reason))
                return
            described.add_done_callback(
                lambda future: self._post(lambda: self._begin(scorer, run, handle, future))
            )
            self._post(lambda: self._keep(scorer, run, handle))

        self._creating.submit(create)

    def _create(self) -> Any:
        options = self._options
        if self._actor_class is None:  # made once: Ray stores each that is made
            self._actor_class = self._ray.remote(
                num_cpus=options.num_cpus,
                num_gpus=self._num_gpus,
                resources=dict(options.resources) or None,
                max_restarts=0,
                max_task_retries=0,
                concurrency_groups=GROUPS,
            )(ScorerActor)
        return self._actor_class.remote(options.scorer_class, options.model)

    def _keep(self, scorer: _Scorer, run: int, handle: Any) -> None:
        """Ray ends an actor to which nobody has a handle."""
        if scorer.run == run and not scorer.is_stopped:
            scorer.handle = handle
        else:
            self._kill_handle(handle)

    def _begin(self, scorer: _Scorer, run: int, handle: Any, described: Future[Any]) -> None:
        """Tells the front that a run has begun."""
        if scorer.run != run or scorer.is_stopped:
            return
        if error := described.exception():
            self._lose(scorer, run, one_line(error, MAX_MESSAGE_CHARS))
            return
        scorer.is_running = True
        scorer.methods = {
            name: getattr(handle, name).options(concurrency_group=group).remote
            for name, group in _GROUPS_OF.items()
        }
        watch = handle.watch.options(concurrency_group="watch").remote().future()
        watch.add_done_callback(
            lambda future: self._post(
                lambda: self._lose(scorer, run, one_line(future.exception(), MAX_MESSAGE_CHARS))
            )
        )
        self._send(Running(scorer.number, run, **described.result()))

    def _lose(self, scorer: _Scorer, run: int, reason: str) -> None:
        """Notes that a run has ended, and begins the next one: at once, or after a pause if this
        one was short."""
        if scorer.run != run or scorer.is_stopped:
            return
        self._kill(scorer)
        self._send(Lost(scorer.number, run, reason))
        is_short = time.monotonic() - scorer.started_s < _SOON_S
        scorer.num_short_runs = scorer.num_short_runs + 1 if is_short else 0
        doublings = min(scorer.num_short_runs - 2, _MAX_DOUBLINGS)  # a float overflows at 1,024
        pause_s = min(2.0**doublings, _MAX_PAUSE_S)
        scorer.run += 1  # so that nothing of the lost run is taken for news
        if scorer.num_short_runs < 2:
            self._start(scorer)
            return
        timer = threading.Timer(pause_s, lambda: self._post(lambda: self._start(scorer)))
        timer.daemon = True
        timer.start()

    def _kill(self, scorer: _Scorer) -> None:
        scorer.is_running = False
        scorer.methods = {}
        if (handle := scorer.handle) is not None:
            scorer.handle = None
            self._creating.submit(self._kill_handle, handle)

    def _kill_handle(self, handle: Any) -> None:
        with suppress(Exception):
            self._ray.kill(handle)
