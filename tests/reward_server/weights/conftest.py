"""A follower that tests lead through time, and checkpoints for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine, EngineSlot
from reward_server.weights.follower import Follower
from reward_server.weights.policy import PolicyUpdater

AddCheckpoint = Callable[[int], Path]


class Followed:
    """A folder and its follower, whose engines are stand-ins. The test moves the clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.errors: list[BaseException] = []
        """Raised by the next loads, one each."""
        self.loaded: list[str] = []
        self.engines = EngineSlot()
        self.engines.start(self._load("start"))
        self.updater = PolicyUpdater(self.engines, self._load)
        self.follower = Follower(folder, self.updater, self.engines)
        self.now_s = self.engines.checkpoints.looked_at_s or 0.0

    def _load(self, path: str) -> Engine:
        self.loaded.append(Path(path).name)
        if path != "start" and self.errors:
            raise self.errors.pop(0)
        # Nothing is scored here, so tokenizer and scorer are not used.
        return Engine(cast(Any, None), Batcher(cast(Any, None), 1), path, {"class": "one"})

    @property
    def version(self) -> int:
        assert self.engines.current
        return self.engines.current.version

    def look(self, times: int = 1, every_s: float = 2.0) -> None:
        """Looks and lets each load end."""
        for _ in range(times):
            self.now_s += every_s
            self.follower.look(self.now_s)
            if self.follower._loading:
                self.follower._loading.version.exception(20)
                self.follower._end_load(self.now_s)


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path / "ckpt")
    yield made
    made.updater.close()
    made.engines.close(10)


@pytest.fixture
def add_checkpoint(followed: Followed, checkpoints: dict[int, Path]) -> AddCheckpoint:
    """Writes a complete checkpoint of a step into the followed folder."""
    return lambda step: shutil.copytree(checkpoints[10], followed.folder / f"global_step{step}_hf")
