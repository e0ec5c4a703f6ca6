"""Which folders are checkpoints, and which checkpoints are completely written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from reward_server.weights.checkpoints import find_missing, list_checkpoints, parse_step


@pytest.mark.parametrize("step", [10, 20])
def test_a_checkpoint_that_lacks_a_file_is_incomplete(
    checkpoints: dict[int, Path], step: int, tmp_path: Path
) -> None:
    assert find_missing(checkpoints[step]) == ""
    needed = [f for f in checkpoints[step].iterdir() if "safetensors" in f.name]
    needed += [checkpoints[step] / name for name in ("config.json", "tokenizer.json")]
    for number, file in enumerate(needed):
        torn = shutil.copytree(checkpoints[step], tmp_path / str(number))
        (torn / file.name).unlink()
        assert find_missing(torn), file.name


def test_a_checkpoint_with_a_cut_off_file_is_incomplete(
    checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    torn = shutil.copytree(checkpoints[20], tmp_path / "torn")
    (shard, *_) = sorted(torn.glob("*.safetensors"))
    data = shard.read_bytes()
    rng = np.random.default_rng(0)
    for size in [0, 1, 7, 8, 9, 100, len(data) - 1, *rng.integers(len(data), size=20)]:
        shard.write_bytes(data[:size])
        assert shard.name in find_missing(torn), size
    shard.write_bytes(data)
    for name in ("config.json", "model.safetensors.index.json"):
        text = (torn / name).read_text()
        for cut in (0, 1, len(text) // 2, len(text) - 2):
            (torn / name).write_text(text[:cut])
            assert find_missing(torn), (name, cut)
        (torn / name).write_text(text)
    for wrong in ("[]", '{"weight_map": 5}', "{}", "null"):
        (torn / "model.safetensors.index.json").write_text(wrong)
        assert find_missing(torn), wrong


def test_only_folders_with_the_trainers_names_are_checkpoints(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "not there yet") == {}
    for name in (
        "global_step5_hf",
        "global_step10_hf",
        "global_step10",
        "best_hf",
        "x_global_step7_hf",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "global_step30_hf").touch()
    assert set(list_checkpoints(tmp_path)) == {5, 10}
    assert parse_step(Path("a/global_step500_hf")) == 500
    assert parse_step(Path("a/final")) is None
