"""What the follower does with checkpoints that are incomplete, refused or not loaded.

Time is an argument of `Follower.look`, so nothing here waits. tests/chaos/test_follow.py has the
same faults in live servers.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from reward_server.pipeline.batcher import Batcher
from reward_server.pipeline.engine import Engine, EngineSlot
from reward_server.weights import follower as follower_module
from reward_server.weights.follower import Follower
from reward_server.weights.policy import PolicyUpdater


class _Setup:
    """A follower whose engines are stand-ins, and a clock that the test moves."""

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
def setup(tmp_path: Path) -> Any:
    made = _Setup(tmp_path / "ckpt")
    yield made
    made.updater.close()
    made.engines.close(10)


@pytest.fixture
def copy(setup: _Setup, checkpoints: dict[int, Path]) -> Callable[[int], Path]:
    """Writes a complete checkpoint of a step into the followed folder."""
    return lambda step: shutil.copytree(checkpoints[10], setup.folder / f"global_step{step}_hf")


def test_the_newest_complete_checkpoint_is_loaded(
    setup: _Setup, copy: Callable[[int], Path]
) -> None:
    setup.look()
    for step in (10, 9, 20):
        copy(step)
    (copy(30) / "config.json").unlink()
    setup.look(3)
    assert setup.loaded == ["start", "global_step20_hf"]
    assert (setup.version, setup.engines.checkpoints.newest_step) == (20, 30)


def test_files_that_still_change_are_waited_for(setup: _Setup, copy: Callable[[int], Path]) -> None:
    """A sentencepiece model has no end by which a reader can tell that it is whole."""
    folder = copy(10)
    (folder / "tokenizer.json").unlink()
    for size in range(1, 5):
        (folder / "tokenizer.model").write_bytes(b"x" * size)
        setup.look()
        assert setup.loaded == ["start"]
    setup.look()
    assert setup.version == 10


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        OSError(errno.EIO, "Input/output error"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        RuntimeError("I/O error: Stale file handle (os error 116)"),
    ],
    ids=repr,
)
def test_a_failure_that_may_pass_is_tried_again_at_growing_intervals(
    setup: _Setup, copy: Callable[[int], Path], error: Exception
) -> None:
    copy(10)
    setup.errors = [error] * 8
    tries_at_s = []
    started_s = setup.now_s
    while setup.version != 10:
        before = len(setup.loaded)
        setup.look()
        if len(setup.loaded) > before:
            tries_at_s.append(setup.now_s - started_s)
        assert setup.now_s < started_s + 10_000
    waits_s = [b - a for a, b in pairwise(tries_at_s)]
    assert waits_s == pytest.approx([10, 20, 40, 80, 160, 320, 600, 600])
    assert setup.engines.checkpoints.num_not_loaded == 8
    assert setup.engines.checkpoints.num_refused == 0


def test_a_newer_checkpoint_ends_the_retries(setup: _Setup, copy: Callable[[int], Path]) -> None:
    copy(10)
    setup.errors = [MemoryError()]
    setup.look(2)
    copy(9)
    copy(20)
    setup.look(2)
    assert setup.loaded[1:] == ["global_step10_hf", "global_step20_hf"]
    setup.look(100)
    assert len(setup.loaded) == 3


def test_a_refused_checkpoint_is_loaded_again_only_when_its_files_change(
    setup: _Setup, copy: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy(10)
    setup.errors = [ValueError("broken")]
    setup.look(1000)
    assert setup.loaded == ["start", "global_step10_hf"]
    assert setup.engines.checkpoints.num_refused == 1
    assert caplog.text.count("broken") == 1
    (folder / "config.json").touch()
    setup.look(2)
    assert setup.version == 10


def test_an_older_checkpoint_is_better_than_a_refused_one(
    setup: _Setup, copy: Callable[[int], Path]
) -> None:
    copy(10)
    copy(20)
    setup.errors = [ValueError("broken")]
    setup.look(10)
    assert setup.loaded[1:] == ["global_step20_hf", "global_step10_hf"]


def test_a_file_that_vanishes_while_it_is_loaded_is_no_refusal(
    setup: _Setup, copy: Callable[[int], Path]
) -> None:
    folder = copy(10)

    class _Vanish(KeyError):
        def __str__(self) -> str:  # called after the load has failed
            (folder / "model.safetensors").unlink(missing_ok=True)
            return "vanished"

    setup.errors = [_Vanish()]
    setup.look(2)
    shutil.rmtree(folder)
    copy(10)
    setup.look(2)
    assert setup.version == 10


def test_a_checkpoint_that_stays_incomplete_is_said_once_and_counted(
    setup: _Setup, copy: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy(10)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    setup.look(28)
    assert setup.engines.checkpoints.num_incomplete == 0
    assert "incomplete" not in caplog.text
    setup.look(100)
    assert setup.engines.checkpoints.num_incomplete == 1
    assert caplog.text.count("model.safetensors") == 1
    assert "shorter than its header" in caplog.text
    (folder / "model.safetensors").write_bytes(weights)
    setup.look(2)
    assert setup.version == 10
    assert setup.engines.checkpoints.num_incomplete == 0


def test_a_checkpoint_that_takes_long_to_write_is_no_fault(
    setup: _Setup, copy: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Unless it never ends."""
    folder = copy(10)
    for size in range(295):
        (folder / "tokenizer.model").write_bytes(b"x" * (size + 1))
        setup.look()
    assert "incomplete" not in caplog.text
    for size in range(10):
        (folder / "tokenizer.model").write_bytes(b"y" * (size + 500))
        setup.look()
    assert caplog.text.count("its files still change") == 1


def test_what_could_not_be_read_is_read_again(
    setup: _Setup, copy: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though none of its files has changed."""
    copy(10)
    with monkeypatch.context() as patched:
        patched.setattr(follower_module, "find_flaw", lambda path: "cannot be read")
        setup.look(10)
    setup.look(20)
    assert setup.version == 10


def test_an_adapter_is_said(
    setup: _Setup, copy: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy(10)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    setup.look(100)
    assert caplog.text.count("--ds.lora.rank") == 1


def test_a_folder_that_never_appears_is_said_once(
    setup: _Setup, copy: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    setup.look(29)
    assert not caplog.records
    setup.look(100)
    (record,) = caplog.records
    assert f"no folder --follow {setup.folder}" in record.getMessage()
    copy(10)
    setup.look(2)
    assert setup.version == 10


def test_a_folder_of_deepspeed_shards_is_said_once(
    setup: _Setup, copy: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    (setup.folder / "_actor" / "global_step25").mkdir(parents=True)
    setup.look(100)
    (record,) = caplog.records
    assert "--ckpt.save_hf" in record.getMessage()
    copy(50)
    setup.look(2)
    assert setup.version == 50


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), RecursionError(), KeyError("x")], ids=repr
)
def test_any_exception_is_survived_counted_and_logged_once(
    setup: _Setup,
    copy: Callable[[int], Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    copy(10)

    def fail(folder: Path) -> dict[int, Path]:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(follower_module, "list_checkpoints", fail)
        looked_at_s = setup.engines.checkpoints.looked_at_s
        setup.look(50)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert setup.engines.checkpoints.num_failed_looks == 50
    assert setup.engines.checkpoints.looked_at_s == looked_at_s
    setup.look(2)
    assert setup.version == 10
    assert setup.engines.checkpoints.looked_at_s == setup.now_s


def test_looks_go_on_while_a_checkpoint_loads(
    setup: _Setup, copy: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(10)
    setup.look()
    monkeypatch.setattr(setup.updater, "update", lambda path, source: Future[int]())
    for _ in range(5):
        setup.now_s += 2
        setup.follower.look(setup.now_s)
    copy(20)
    setup.now_s += 2
    setup.follower.look(setup.now_s)
    assert setup.engines.checkpoints.newest_step == 20
    assert setup.engines.checkpoints.looked_at_s == setup.now_s


def test_the_thread_ends_with_the_updater(tmp_path: Path) -> None:
    made = _Setup(tmp_path)
    made.follower.start()
    made.updater.close()
    for thread in threading.enumerate():
        if thread.name == "follow":
            thread.join(10)
            assert not thread.is_alive()
    made.follower.look(made.now_s)  # raises nothing
    made.engines.close(10)


class _Panic(BaseException):
    """As Rust's code raises it, such as tokenizers for a file that it does not understand."""


def test_a_panic_of_a_library_ends_nothing(setup: _Setup, copy: Callable[[int], Path]) -> None:
    copy(10)
    setup.errors = [_Panic("index out of bounds")]
    setup.look(3)
    assert (setup.version, setup.engines.checkpoints.num_refused) == (0, 1)
    copy(20)
    setup.look(3)
    assert setup.version == 20


def test_files_that_change_while_they_are_loaded_are_loaded_again(
    setup: _Setup, copy: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = copy(10) / "model.safetensors"
    load = setup.updater._load

    def load_and_change(path: str) -> Engine:
        if setup.loaded == ["start"]:
            weights.write_bytes(weights.read_bytes())
        return load(path)

    monkeypatch.setattr(setup.updater, "_load", load_and_change)
    setup.look(2)
    assert setup.version == 0
    setup.look(3)
    assert setup.version == 10
    assert setup.loaded == ["start", "global_step10_hf", "global_step10_hf"]


@pytest.mark.parametrize("num_failures", [0, 2])
def test_files_that_change_after_they_were_loaded_are_loaded_again(
    setup: _Setup, copy: Callable[[int], Path], caplog: pytest.LogCaptureFixture, num_failures: int
) -> None:
    weights = copy(10) / "model.safetensors"
    setup.look(5)
    assert setup.loaded == ["start", "global_step10_hf"]
    weights.write_bytes(weights.read_bytes())
    setup.errors = [MemoryError() for _ in range(num_failures)]
    setup.look(40)
    assert setup.loaded == ["start", *["global_step10_hf"] * (2 + num_failures)]
    assert caplog.text.count("changed after it was loaded") == 1
    weights.unlink()
    setup.look(60)
    assert setup.engines.checkpoints.num_incomplete == 1
    assert "stays incomplete and is not loaded: model.safetensors" in caplog.text
    shutil.rmtree(weights.parent)
    setup.look()
    assert setup.engines.checkpoints.num_incomplete == 0


def test_a_retry_of_a_first_load_is_no_change(
    setup: _Setup, copy: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    copy(10)
    setup.errors = [MemoryError()]
    setup.look(20)
    assert setup.version == 10
    assert "changed after it was loaded" not in caplog.text


def test_the_follower_does_not_go_back_behind_an_update_on_request(
    setup: _Setup,
    copy: Callable[[int], Path],
    checkpoints: dict[int, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy(10)
    setup.look(3)
    announced = shutil.copytree(checkpoints[20], tmp_path / "global_step50_hf")
    assert setup.updater.update(announced).result(20) == 50
    copy(20)
    setup.look(5)
    assert setup.version == 50
    assert caplog.text.count("holds only steps before 50") == 1
    copy(60)
    setup.look(3)
    assert setup.version == 60


def test_an_older_checkpoint_is_loaded_while_a_newer_one_waits_for_its_retry(
    setup: _Setup, copy: Callable[[int], Path]
) -> None:
    copy(10)
    copy(20)
    setup.errors = [MemoryError()]
    setup.look(4)
    assert setup.version == 10
    setup.look(10)
    assert setup.version == 20


def test_a_folder_without_checkpoints_is_said_once(
    setup: _Setup, caplog: pytest.LogCaptureFixture
) -> None:
    (setup.folder / "checkpoint-500").mkdir(parents=True)
    setup.look(100)
    assert caplog.text.count("holds no global_stepN_hf") == 1
