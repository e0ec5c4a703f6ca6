"""Servers that are given weights which are not the policy's."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reward_server.launch import ServerDidNotStart
from sar.models import BUNDLED_MODEL

if TYPE_CHECKING:
    from tests.conftest import TestedServer

KEY = "a-key-for-the-tests"
REQUEST = {"query": ["Q: 2+3?\nA: 5"], "prompts": ["Q: 2+3?\nA:"], "labels": ["5"]}
MATRIX = "model.layers.1.mlp.up_proj.weight"


def _write(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Writes the bundled model with tensors changed in place."""
    shutil.copytree(BUNDLED_MODEL, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def _write_compiled(folder: Path) -> Path:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors["_orig_mod." + name] = tensors.pop(name)

    return _write(folder, rename)


def _write_with_other_template(folder: Path) -> Path:
    shutil.copytree(BUNDLED_MODEL, folder)
    template = folder / "chat_template.jinja"
    template.write_text("Be brief." + template.read_text())
    return folder


def _write_with_other_rotations(folder: Path) -> Path:
    shutil.copytree(BUNDLED_MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 1e6
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_write_compiled, "tensors unexpected: _orig_mod.model.embed_tokens.weight, "),
        (
            lambda folder: _write(folder, lambda tensors: tensors[MATRIX].zero_()),
            f"1 tensor with the same value everywhere: {MATRIX}",
        ),
    ],
    ids=["compiled", "zero"],
)
def test_a_server_does_not_start_with_weights_that_are_not_a_model(
    start_server: Callable[..., TestedServer],
    tmp_path: Path,
    write: Callable[[Path], Path],
    message: str,
) -> None:
    folder = write(tmp_path / "model")
    server = start_server("--model", str(folder))
    with pytest.raises(ServerDidNotStart):
        server.wait_until_ready()
    assert server.process.wait(60) == 1
    errors = [line for line in server.log.read_text().splitlines() if "ERROR" in line]
    assert len(errors) == 1
    assert f"cannot serve --model {folder}: " in errors[0]
    assert message in errors[0]
    assert "LOAD REPORT" not in server.log.read_text()


@pytest.mark.slow
def test_weights_that_are_not_the_policys_leave_the_old_in_service(
    start_server: Callable[..., TestedServer], tmp_path: Path
) -> None:
    refused = {
        _write_compiled(tmp_path / "compiled"): "tensors missing: model.embed_tokens.weight, ",
        _write(
            tmp_path / "torn", lambda tensors: tensors.pop(MATRIX)
        ): f"1 tensor missing: {MATRIX}",
        _write(
            tmp_path / "nan", lambda tensors: tensors[MATRIX].fill_(torch.nan)
        ): f"1 tensor with NaN or infinity in torch.float32: {MATRIX}",
        _write_with_other_template(tmp_path / "template"): "another model: chat template 'digest ",
        _write_with_other_rotations(
            tmp_path / "rope"
        ): "another model: rope_parameters '{'rope_theta': 1000000.0, ",
    }
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    followed = tmp_path / "followed"
    followed.mkdir()
    server = start_server("--api-key-file", str(keys), "--follow", str(followed))
    server.wait_until_ready()
    opener = urllib.request.build_opener()
    opener.addheaders = [("Authorization", f"Bearer {KEY}")]
    urllib.request.install_opener(opener)
    try:
        before = server.request("/get_reward", REQUEST)[1]["rewards"]
        for folder, message in refused.items():
            status, answer = server.request("/update_weights", {"path": str(folder)})
            assert (status, answer["error"]["field"]) == (400, "path")
            assert message in answer["error"]["message"]
            assert "\n" not in answer["error"]["message"]
            assert server.request("/get_reward", REQUEST)[1]["rewards"] == before
        (tmp_path / "compiled").rename(followed / "global_step5_hf")
        deadline = time.monotonic() + 60
        while server.request("/healthz")[1]["checkpoints_refused"] <= len(refused):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.request("/get_reward", REQUEST)[1]["rewards"] == before
        same = _write(tmp_path / "same", lambda tensors: None)
        assert server.request("/update_weights", {"path": str(same)}) == (
            200,
            {"policy_version": 1},
        )
    finally:
        urllib.request.install_opener(urllib.request.build_opener())
    assert "LOAD REPORT" not in server.log.read_text()
    assert server.stop() == 0
