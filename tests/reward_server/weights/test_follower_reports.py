"""What the follower says and counts when a folder has nothing that it can load."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reward_server.weights import follower as follower_module

if TYPE_CHECKING:
    from tests.reward_server.weights.conftest import AddCheckpoint, Followed


def test_a_checkpoint_that_stays_incomplete_is_said_once_and_counted(
    followed: Followed, add_checkpoint: AddCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    folder = add_checkpoint(10)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    followed.look(28)
    assert followed.engines.checkpoints.num_incomplete == 0
    assert "incomplete" not in caplog.text
    followed.look(100)
    assert followed.engines.checkpoints.num_incomplete == 1
    assert caplog.text.count("model.safetensors") == 1
    assert "shorter than its header" in caplog.text
    (folder / "model.safetensors").write_bytes(weights)
    followed.look(2)
    assert followed.version == 10
    assert followed.engines.checkpoints.num_incomplete == 0


def test_a_checkpoint_that_takes_long_to_write_is_no_fault(
    followed: Followed, add_checkpoint: AddCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless it never ends."""
    folder = add_checkpoint(10)
    for size in range(295):
        (folder / "tokenizer.model").write_bytes(b"x" * (size + 1))
        followed.look()
    assert "incomplete" not in caplog.text
    for size in range(10):
        (folder / "tokenizer.model").write_bytes(b"y" * (size + 500))
        followed.look()
    assert caplog.text.count("its files still change") == 1


def test_what_could_not_be_read_is_read_again(
    followed: Followed, add_checkpoint: AddCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though none of its files has changed."""
    add_checkpoint(10)
    with monkeypatch.context() as patched:
        patched.setattr(follower_module, "find_flaw", lambda path: "cannot be read")
        followed.look(10)
    followed.look(20)
    assert followed.version == 10


def test_an_adapter_is_said(
    followed: Followed, add_checkpoint: AddCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    folder = add_checkpoint(10)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    followed.look(100)
    assert caplog.text.count("--ds.lora.rank") == 1


def test_a_folder_that_never_appears_is_said_once(
    followed: Followed, add_checkpoint: AddCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    followed.look(29)
    assert not caplog.records
    followed.look(100)
    (record,) = caplog.records
    assert f"no folder --follow {followed.folder}" in record.getMessage()
    add_checkpoint(10)
    followed.look(2)
    assert followed.version == 10


def test_a_folder_of_deepspeed_shards_is_said_once(
    followed: Followed, add_checkpoint: AddCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    (followed.folder / "_actor" / "global_step25").mkdir(parents=True)
    followed.look(100)
    (record,) = caplog.records
    assert "--ckpt.save_hf" in record.getMessage()
    add_checkpoint(50)
    followed.look(2)
    assert followed.version == 50


def test_a_folder_without_checkpoints_is_said_once(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    (followed.folder / "checkpoint-500").mkdir(parents=True)
    followed.look(100)
    assert caplog.text.count("holds no global_stepN_hf") == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), RecursionError(), KeyError("x")], ids=repr
)
def test_any_exception_is_survived_counted_and_logged_once(
    followed: Followed,
    add_checkpoint: AddCheckpoint,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    add_checkpoint(10)

    def fail(folder: Path) -> dict[int, Path]:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(follower_module, "list_checkpoints", fail)
        looked_at_s = followed.engines.checkpoints.looked_at_s
        followed.look(50)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert followed.engines.checkpoints.num_failed_looks == 50
    assert followed.engines.checkpoints.looked_at_s == looked_at_s
    followed.look(2)
    assert followed.version == 10
    assert followed.engines.checkpoints.looked_at_s == followed.now_s
