"""The scorer on Ray: an actor that holds loaded models and scores packs with them.

It holds several models at once, by key: while new weights are loaded, the old ones still score.
Ray runs `score` in one thread, and `load`, `unload` and `has_room` in another.
"""

from __future__ import annotations

import gc
import importlib
import os
import threading
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from reward_server.scaling.files import (
    Listing,
    Parts,
    check_files,
    remove_leftovers,
    remove_written,
    write_files,
)
from reward_server.scaling.options import ModelOptions
from reward_server.scaling.packs import decode_pack, encode_results
from sar.errors import MAX_MESSAGE_CHARS, one_line

GROUPS = {"score": 1, "load": 1, "watch": 1}
"""Ray's concurrency groups of a scorer, and the threads of each."""


class Loaded(NamedTuple):
    """A model was loaded."""

    facts: dict[str, Any]


class NotLoaded(NamedTuple):
    """A model was not loaded."""

    reason: str
    may_pass: bool
    """Whether the same model may be loaded without an error later."""


class Scored(NamedTuple):
    """The results of a pack, from `encode_results`."""

    results: bytes


class NotScored(NamedTuple):
    """The scorer failed on a pack. It is still there."""

    reason: str


class ScorerActor:
    """Loads models and scores with them. Its methods raise nothing, as Ray's errors are for scorers
    that have ended."""

    def __init__(self, scorer_class: str, options: ModelOptions) -> None:
        """
        Args:
            scorer_class: "module:Class" of what loads models; see `loaded_model`.
        """
        # On a CPU, scorers share cores with others. Idle OpenMP threads must not spin on them.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._scorer_class = scorer_class
        self._options = options
        self._models: dict[int, Any] = {}
        self._folders: dict[int, Path] = {}
        remove_leftovers()

    def describe(self) -> dict[str, Any]:
        """Where this scorer runs."""
        import ray

        context = ray.get_runtime_context()
        return {
            "node": ray.util.get_node_ip_address(),
            "node_id": context.get_node_id(),
            "gpus": tuple(map(str, ray.get_gpu_ids())),
            "pid": os.getpid(),
        }

    def watch(self) -> None:
        """Never returns: Ray tells who called it when this scorer has ended."""
        threading.Event().wait()

    def load(
        self, key: int, path: str, files: Listing, parts: Parts | None = None
    ) -> Loaded | NotLoaded:
        """Loads a model beside those that are loaded.

        Args:
            path: a folder or Hugging Face id.
            files: the files that must be there; the model is not loaded from others.
            parts: the files themselves, as Ray's references; None: they are at `path`.
        """
        try:
            return Loaded(self._load(key, path, files, parts))
        except BaseException as error:  # noqa: BLE001  libraries raise anything for a broken model
            from reward_server.weights.policy import may_pass

            self.unload(key)
            traceback.print_exception(error)  # into the log that Ray keeps for this scorer
            failure = NotLoaded(one_line(error, MAX_MESSAGE_CHARS), may_pass(error))
            traceback.clear_frames(error.__traceback__)
            return failure

    def unload(self, key: int) -> None:
        """Frees the memory of a model. It does not score any more."""
        if model := self._models.pop(key, None):
            model.close()
        if folder := self._folders.pop(key, None):
            remove_written(folder)
        model = None
        gc.collect()

    def has_room(self, key: int, num_copies: int) -> bool:
        """Whether memory has room for so many more models of this size."""
        return key not in self._models or bool(self._models[key].has_room_for(num_copies))

    def score(self, key: int, pack: bytes) -> Scored | NotScored:
        """Scores a pack of `encode_pack` with a model that is loaded."""
        try:
            return Scored(encode_results(self._models[key].response_logprobs(decode_pack(pack))))
        except Exception as error:  # noqa: BLE001  whoever sent the pack gets any error
            failure = NotScored(one_line(error, MAX_MESSAGE_CHARS))
            # Its frames hold the tensors of the failed call, which may be what memory ran out for.
            traceback.clear_frames(error.__traceback__)
            return failure

    def _load(self, key: int, path: str, files: Listing, parts: Parts | None) -> dict[str, Any]:
        module, _, name = self._scorer_class.partition(":")
        loader = getattr(importlib.import_module(module), name)
        if parts is None:
            check_files(path, files)
            self._models[key] = loader.load(path, self._options)
            check_files(path, files)
        else:
            import ray

            folder = self._folders[key] = write_files(parts, ray.get, Path(path).name)
            self._models[key] = loader.load(str(folder), self._options)
            if not self._models[key].needs_files:
                remove_written(self._folders.pop(key))
        facts: dict[str, Any] = self._models[key].facts
        return facts
