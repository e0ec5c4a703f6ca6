"""Which checkpoints the follower loads, and when it loads one again.

Time is an argument of `Follower.look`, so nothing here waits. tests/chaos/test_follow.py has the
same faults in live servers.
"""

from __future__ import annotations

import errno
import shutil
import threading
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from reward_server.pipeline.engine import Engine

if TYPE_CHECKING:
    from tests.reward_server.weights.conftest import AddCheckpoint, Followed

pytestmark = pytest.mark.slow  # they wait for looks at a folder


def test_the_newest_complete_checkpoint_is_loaded(
    followed: Followed, add_checkpoint: AddCheckpoint
) -> None:
    followed.look()
    for step in (10, 9, 20):
        add_checkpoint(step)
    (add_checkpoint(30) / "config.json").unlink()
    followed.look(3)
    assert followed.loaded == ["start", "global_step20_hf"]
    assert (followed.version, followed.engines.checkpoints.newest_step) == (20, 30)


def test_files_that_still_change_are_waited_for(
    followed: Followed, add_checkpoint: AddCheckpoint
) -> None:
    """A sentencepiece model has no end by which a reader can tell that it is whole."""
    folder = add_checkpoint(10)
    (folder / "tokenizer.json").unlink()
    for size in range(1, 5):
        (folder / "tokenizer.model").write_bytes(b"x" * size)
        followed.look()
        assert followed.loaded == ["start"]
    followed.look()
    assert followed.version == 10


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
    followed: Followed, add_checkpoint: AddCheckpoint, error: Exception
) -> None:
    add_checkpoint(10)
    followed.errors = [error] * 8
    tries_at_s = []
    started_s = followed.now_s
    while followed.version != 10:
        before = len(followed.loaded)
        followed.look()
        if len(followed.loaded) > before:
            tries_at_s.append(followed.now_s - started_s)
        assert followed.now_s < started_s + 10_000
    waits_s = [b - a for a, b in pairwise(tries_at_s)]
    assert waits_s == pytest.approx([10, 20, 40, 80, 160, 320, 600, 600])
    assert followed.engines.checkpoints.num_not_loaded == 8
    assert followed.engines.checkpoints.num_refused == 0


def test_a_newer_checkpoint_ends_the_retries(
    followed: Followed, add_checkpoint: AddCheckpoint
) -> None:
    add_checkpoint(10)
    followed.errors = [MemoryError()]
    followed.look(2)
    add_checkpoint(9)
    add_checkpoint(20)
    followed.look(2)
    assert followed.loaded[1:] == ["global_step10_hf", "global_step20_hf"]
    followed.look(100)
    assert len(followed.loaded) == 3


def test_a_refused_checkpoint_is_loaded_again_only_when_its_files_change(
    followed: Followed, add_checkpoint: AddCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    folder = add_checkpoint(10)
    followed.errors = [ValueError("broken")]
    followed.look(1000)
    assert followed.loaded == ["start", "global_step10_hf"]
    assert followed.engines.checkpoints.num_refused == 1
    assert caplog.text.count("broken") == 1
    (folder / "config.json").touch()
    followed.look(2)
    assert followed.version == 10


def test_an_older_checkpoint_is_better_than_a_refused_one(
    followed: Followed, add_checkpoint: AddCheckpoint
) -> None:
    add_checkpoint(10)
    add_checkpoint(20)
    followed.errors = [ValueError("broken")]
    followed.look(10)
    assert followed.loaded[1:] == ["global_step20_hf", "global_step10_hf"]


def test_a_file_that_vanishes_while_it_is_loaded_is_no_refusal(
    followed: Followed, add_checkpoint: AddCheckpoint
) -> None:
    folder = add_checkpoint(10)

    class _Vanish(KeyError):
        def __str__(self) -> str:  # called after the load has failed
            (folder / "model.safetensors").unlink(missing_ok=True)
            return "vanished"

    followed.errors = [_Vanish()]
    followed.look(2)
    shutil.rmtree(folder)
    add_checkpoint(10)
    followed.look(2)
    assert followed.version == 10


def test_looks_go_on_while_a_checkpoint_loads(
    followed: Followed, add_checkpoint: AddCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_checkpoint(10)
    followed.look()
    monkeypatch.setattr(followed.updater, "update", lambda path, source: Future[int]())
    for _ in range(5):
        followed.now_s += 2
        followed.follower.look(followed.now_s)
    add_checkpoint(20)
    followed.now_s += 2
    followed.follower.look(followed.now_s)
    assert followed.engines.checkpoints.newest_step == 20
    assert followed.engines.checkpoints.looked_at_s == followed.now_s


def test_the_thread_ends_with_the_updater(followed: Followed) -> None:
    followed.folder.mkdir()
    followed.follower.start()
    followed.updater.close()
    for thread in threading.enumerate():
        if thread.name == "follow":
            thread.join(10)
            assert not thread.is_alive()
    followed.follower.look(followed.now_s)  # raises nothing


class _Panic(BaseException):
    """As Rust's code raises it, such as tokenizers for a file that it does not understand."""


def test_a_panic_of_a_library_ends_nothing(
    followed: Followed, add_checkpoint: AddCheckpoint
) -> None:
    add_checkpoint(10)
    followed.errors = [_Panic("index out of bounds")]
    followed.look(3)
    assert (followed.version, followed.engines.checkpoints.num_refused) == (0, 1)
    add_checkpoint(20)
    followed.look(3)
    assert followed.version == 20


def test_files_that_change_while_they_are_loaded_are_loaded_again(
    followed: Followed, add_checkpoint: AddCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = add_checkpoint(10) / "model.safetensors"
    load = followed.updater._load

    def load_and_change(path: str) -> Engine:
        if followed.loaded == ["start"]:
            weights.write_bytes(weights.read_bytes())
        return load(path)

    monkeypatch.setattr(followed.updater, "_load", load_and_change)
    followed.look(2)
    assert followed.version == 0
    followed.look(3)
    assert followed.version == 10
    assert followed.loaded == ["start", "global_step10_hf", "global_step10_hf"]


@pytest.mark.parametrize("num_failures", [0, 2])
def test_files_that_change_after_they_were_loaded_are_loaded_again(
    followed: Followed,
    add_checkpoint: AddCheckpoint,
    caplog: pytest.LogCaptureFixture,
    num_failures: int,
) -> None:
    weights = add_checkpoint(10) / "model.safetensors"
    followed.look(5)
    assert followed.loaded == ["start", "global_step10_hf"]
    weights.write_bytes(weights.read_bytes())
    followed.errors = [MemoryError() for _ in range(num_failures)]
    followed.look(40)
    assert followed.loaded == ["start", *["global_step10_hf"] * (2 + num_failures)]
    assert caplog.text.count("changed after it was loaded") == 1
    weights.unlink()
    followed.look(60)
    assert followed.engines.checkpoints.num_incomplete == 1
    assert "stays incomplete and is not loaded: model.safetensors" in caplog.text
    shutil.rmtree(weights.parent)
    followed.look()
    assert followed.engines.checkpoints.num_incomplete == 0


def test_a_retry_of_a_first_load_is_no_change(
    followed: Followed, add_checkpoint: AddCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    add_checkpoint(10)
    followed.errors = [MemoryError()]
    followed.look(20)
    assert followed.version == 10
    assert "changed after it was loaded" not in caplog.text


def test_the_follower_does_not_go_back_behind_an_update_on_request(
    followed: Followed,
    add_checkpoint: AddCheckpoint,
    checkpoints: dict[int, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add_checkpoint(10)
    followed.look(3)
    announced = shutil.copytree(checkpoints[20], tmp_path / "global_step50_hf")
    assert followed.updater.update(announced).result(20) == 50
    add_checkpoint(20)
    followed.look(5)
    assert followed.version == 50
    assert caplog.text.count("holds only steps before 50") == 1
    add_checkpoint(60)
    followed.look(3)
    assert followed.version == 60


def test_an_older_checkpoint_is_loaded_while_a_newer_one_waits_for_its_retry(
    followed: Followed, add_checkpoint: AddCheckpoint
) -> None:
    add_checkpoint(10)
    add_checkpoint(20)
    followed.errors = [MemoryError()]
    followed.look(4)
    assert followed.version == 10
    followed.look(10)
    assert followed.version == 20
