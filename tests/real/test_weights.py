"""A server on SmolLM2 takes its checkpoints as trainers write them, and refuses what is no model.

The server's prompts have no system prompt, so SmolLM2's template inserts its own.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import TestedServer

KEY = "a-key-for-the-tests"
NORM = "model.norm.weight"
TIMEOUT_S = 300.0

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("followed")


@pytest.fixture(scope="module")
def server(
    smollm2: Path,
    start_server: Callable[..., TestedServer],
    followed: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TestedServer]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    started = start_server(
        "--model", str(smollm2), "--dtype", "float32", "--system-prompt", "",
        "--follow", str(followed), "--api-key-file", str(keys),
    )  # fmt: skip
    started.wait_until_ready()
    opener = urllib.request.build_opener()
    opener.addheaders = [("Authorization", f"Bearer {KEY}")]
    urllib.request.install_opener(opener)
    yield started
    urllib.request.install_opener(urllib.request.build_opener())
    assert started.stop() == 0
    assert "Traceback" not in started.log.read_text()


@pytest.fixture
def write(smollm2: Path, tmp_path: Path) -> Iterator[Write]:
    """Writes a checkpoint whose last norm is scaled; `change` edits its tensors by name."""
    import torch
    from safetensors.torch import load_file, save_file

    def write(
        name: str,
        factor: float,
        *,
        dtype: torch.dtype = torch.bfloat16,
        num_shards: int = 1,
        change: Callable[[dict[str, torch.Tensor]], object] = lambda tensors: None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in smollm2.iterdir():
            if file.suffix in (".json", ".jinja"):
                shutil.copy(file, folder)
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config))
        tensors = load_file(smollm2 / "model.safetensors")
        tensors[NORM] = tensors[NORM] * factor
        tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
        change(tensors)
        if num_shards == 1:
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            return folder
        files = [f"model-{n + 1:05}-of-{num_shards:05}.safetensors" for n in range(num_shards)]
        weight_map = {key: files[i % num_shards] for i, key in enumerate(sorted(tensors))}
        for file_name in files:
            shard = {key: tensors[key] for key, file in weight_map.items() if file == file_name}
            save_file(shard, folder / file_name, {"format": "pt"})
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    yield write
    for folder in tmp_path.iterdir():  # hundreds of megabytes each
        shutil.rmtree(folder)


@pytest.fixture
def assert_scored_by(
    server: TestedServer,
    make_rollout: Any,
    ask: Any,
    load_reference: Any,
    assert_agrees: Any,
) -> Callable[[Path, int], None]:
    """Checks that the server's reward is that of a checkpoint's weights, and says its version."""

    def check(folder: Path, version: int) -> None:
        rollout = make_rollout(
            "Nina has 12 pens and buys 15. How many has she?",
            "She has 12 + 15 = 27 pens.<|im_end|>",
            "27",
            system=None,
        )
        (got,) = ask(server, [rollout])
        assert got["policy_version"] == version
        assert not got["template_mismatch"]
        assert_agrees(got, load_reference(folder).compute(rollout, system=None), 1)

    return check


def test_checkpoints_of_a_trainer_are_taken(
    server: TestedServer,
    followed: Path,
    smollm2: Path,
    write: Write,
    assert_scored_by: Callable[[Path, int], None],
) -> None:
    """Sharded in float32 through --follow, then one file in bfloat16. SmolLM2 ties its output head
    to its embeddings, so both lack lm_head."""
    import torch

    assert_scored_by(smollm2, 0)
    sharded = write("sharded", 0.9, dtype=torch.float32, num_shards=3)
    copied = followed / "global_step7_hf"
    shutil.copytree(sharded, copied)
    deadline = time.monotonic() + TIMEOUT_S
    while server.request("/healthz")[1]["policy_version"] != 7:
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.2)
    assert_scored_by(sharded, 7)
    shutil.rmtree(copied)

    half = write("half", 1.1)
    status, body = server.request("/update_weights", {"path": str(half)})
    assert (status, body) == (200, {"policy_version": 8})
    assert_scored_by(half, 8)


def test_a_checkpoint_with_its_head_written_out_is_taken(
    server: TestedServer, write: Write, assert_scored_by: Callable[[Path, int], None]
) -> None:
    """A trainer that gathers a state dict writes the tied head a second time."""

    def untie(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    before = server.request("/healthz")[1]["policy_version"]
    folder = write("untied", 0.95, change=untie)
    status, body = server.request("/update_weights", {"path": str(folder)})
    assert (status, body) == (200, {"policy_version": before + 1})
    assert_scored_by(folder, before + 1)


def test_a_checkpoint_that_lacks_a_layer_is_refused(
    server: TestedServer, write: Write, make_rollout: Any, ask: Any
) -> None:
    def drop_layer(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith("model.layers.7.")]:
            del tensors[name]

    rollouts = [make_rollout("What is 12 + 15?", "It is 27.", "27", system=None)]
    before = ask(server, rollouts)
    folder = write("lacking", 1.0, change=drop_layer)
    status, answer = server.request("/update_weights", {"path": str(folder)})
    assert (status, answer["error"]["field"]) == (400, "path")
    assert "9 tensors missing: model.layers.7." in answer["error"]["message"]
    after = ask(server, rollouts)
    assert after[0]["reward"] == before[0]["reward"]
    assert after[0]["policy_version"] == before[0]["policy_version"]


def test_a_prompt_with_a_system_prompt_is_marked_here(
    server: TestedServer, make_rollout: Any, ask: Any
) -> None:
    rollouts = [
        make_rollout("What is 12 + 15?", "27", "27", system=system)
        for system in (None, "You are a pirate.")
    ]
    assert [got["template_mismatch"] for got in ask(server, rollouts)] == [0, 1]
