"""Which folders are checkpoints, and which checkpoints are completely written."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward_server.weights.checkpoints import (
    find_deepspeed_checkpoint,
    find_flaw,
    list_checkpoints,
    parse_step,
    read_signature,
)

_DEEP = "[" * 100_000
_INDEX = "model.safetensors.index.json"


@pytest.fixture
def single(checkpoints: dict[int, Path], tmp_path: Path) -> Path:
    """A copy of the checkpoint that has one file of weights."""
    return shutil.copytree(checkpoints[10], tmp_path / "single")


@pytest.fixture
def sharded(checkpoints: dict[int, Path], tmp_path: Path) -> Path:
    """A copy of the checkpoint that has three."""
    return shutil.copytree(checkpoints[20], tmp_path / "sharded")


@pytest.mark.parametrize("step", [10, 20])
def test_a_checkpoint_that_lacks_a_file_is_incomplete(
    checkpoints: dict[int, Path], step: int, tmp_path: Path
) -> None:
    assert find_flaw(checkpoints[step]) == ""
    needed = [f for f in checkpoints[step].iterdir() if "safetensors" in f.name]
    needed += [checkpoints[step] / name for name in ("config.json", "tokenizer.json")]
    for number, file in enumerate(needed):
        torn = shutil.copytree(checkpoints[step], tmp_path / str(number))
        (torn / file.name).unlink()
        assert find_flaw(torn), file.name
    assert find_flaw(tmp_path / "none") == "config.json is missing"


def test_a_checkpoint_with_a_cut_off_file_is_incomplete(sharded: Path) -> None:
    (shard, *_) = sorted(sharded.glob("*.safetensors"))
    data = shard.read_bytes()
    rng = np.random.default_rng(0)
    for size in [0, 1, 7, 8, 9, 100, len(data) - 1, *rng.integers(len(data), size=20)]:
        shard.write_bytes(data[:size])
        assert shard.name in find_flaw(sharded), size
    shard.write_bytes(data)
    for name in ("config.json", _INDEX, "tokenizer.json", "tokenizer_config.json"):
        text = (sharded / name).read_text().rstrip()
        for cut in (0, 1, len(text) // 2, len(text) - 2):
            (sharded / name).write_text(text[:cut])
            assert name in find_flaw(sharded), (name, cut)
        (sharded / name).write_text(text)
    assert find_flaw(sharded) == ""


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "generation_config.json", _INDEX]
)
@pytest.mark.parametrize(
    "text", ["[]", "null", "5", _DEEP, '{"a":' * 100_000, "1" * 5000, b"\xff\xfe{", b"\0" * 50]
)
def test_json_of_another_kind_is_a_flaw(sharded: Path, name: str, text: str | bytes) -> None:
    (sharded / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert name in find_flaw(sharded)


@pytest.mark.parametrize(
    "weight_map",
    [
        5,
        [],
        {},
        {"a": 5},
        {"a": None},
        {"a": []},
        {"a": "x\0.safetensors"},
        {"a": "\ud800"},
        {"a": ""},
    ],
)
def test_an_index_of_another_form_is_a_flaw(sharded: Path, weight_map: object) -> None:
    (sharded / _INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert _INDEX in find_flaw(sharded)


@pytest.mark.parametrize("kind", ["relative", "absolute", "below", "parent", "itself"])
def test_shards_outside_of_the_folder_are_not_opened(
    sharded: Path, checkpoints: dict[int, Path], kind: str
) -> None:
    (sharded / "below").mkdir()
    for folder in (sharded.parent, sharded / "below"):
        shutil.copy(checkpoints[10] / "model.safetensors", folder / "other.safetensors")
    name = {
        "relative": "../other.safetensors",
        "absolute": str(sharded.parent / "other.safetensors"),
        "below": "below/other.safetensors",
        "parent": "..",
        "itself": ".",
    }[kind]
    (sharded / _INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert "no weights of this folder" in find_flaw(sharded)


@pytest.mark.parametrize("num_bytes", [2**63, 2**64 - 1, 100_000_001, 2**31])
def test_a_header_that_claims_too_much_is_a_flaw(single: Path, num_bytes: int) -> None:
    (single / "model.safetensors").write_bytes(struct.pack("<Q", num_bytes) + b"{}" * 100)
    assert "model.safetensors" in find_flaw(single)


@pytest.mark.parametrize(
    "header",
    ["[]", "5", _DEEP, '{"a": 5}', '{"a": {}}', '{"a": {"data_offsets": 5}}',
     '{"a": {"data_offsets": [0, "9"]}}', '{"a": {"data_offsets": [0, NaN]}}',
     '{"a": {"data_offsets": [0, 1e400]}}', '{"a": {"data_offsets": [0]}}'],
)  # fmt: skip
def test_a_broken_header_is_a_flaw(single: Path, header: str) -> None:
    data = header.encode()
    (single / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)
    assert "model.safetensors" in find_flaw(single)


def _make_folder(path: Path) -> None:
    path.mkdir()


def _make_loop(path: Path) -> None:
    path.symlink_to(path)


def _make_dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("make", [_make_folder, os.mkfifo, _make_loop, _make_dangling])
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", _INDEX, "tokenizer.json", "tokenizer_config.json"]
)
def test_something_else_in_place_of_a_file_is_a_flaw(
    single: Path, name: str, make: Callable[[Path], None]
) -> None:
    (single / name).unlink(missing_ok=True)
    make(single / name)
    assert name in find_flaw(single)


def test_links_to_files_are_followed(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    """A download of the Hub is a folder of links."""
    for file in checkpoints[20].iterdir():
        (tmp_path / file.name).symlink_to(file)
    assert find_flaw(tmp_path) == ""


def test_an_empty_tokenizer_model_is_a_flaw(single: Path) -> None:
    (single / "tokenizer.json").unlink()
    (single / "tokenizer.model").touch()
    assert "tokenizer.model is empty" in find_flaw(single)
    (single / "tokenizer.model").write_bytes(b"x")
    assert find_flaw(single) == ""


def test_an_adapter_is_a_flaw_that_says_what_to_do(single: Path) -> None:
    (single / "model.safetensors").rename(single / "adapter_model.safetensors")
    assert "--ds.lora.rank" in find_flaw(single)
    (single / "adapter_model.safetensors").rename(single / "model.safetensors")
    (single / "adapter_config.json").write_text("{}")
    assert "LoRA" in find_flaw(single)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("name", "mode"), [("model.safetensors", 0o600), ("tokenizer.json", 0o600), ("", 0o700)]
)
def test_what_another_user_wrote_is_a_flaw_that_says_what_to_do(
    checkpoints: dict[int, Path], shared_folder: Path, name: str, mode: int
) -> None:
    folder = shutil.copytree(checkpoints[10], shared_folder / "global_step10_hf")
    (folder / "model.safetensors").chmod(0o644)  # safetensors has written it with 0600
    (folder / name).chmod(mode)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from reward_server.weights.checkpoints import find_flaw, list_checkpoints\n"
        "os.setuid(65534); assert list_checkpoints(Path(sys.argv[1]).parent)\n"
        "print(find_flaw(Path(sys.argv[1])))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith(f"{name or 'config.json'}: permission denied for user 65534")
    assert "as the user that trains" in run.stdout


_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", _INDEX]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["weight_map", "data_offsets", "__metadata__", "a"]), inner
        )
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())
_framed = (st.binary(max_size=200) | _json).map(lambda data: struct.pack("<Q", len(data)) + data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.dictionaries(st.sampled_from(_FILES), st.binary(max_size=300) | _json | _framed))
def test_no_content_of_a_file_raises(single: Path, contents: dict[str, bytes]) -> None:
    kept = {name: (single / name).read_bytes() for name in _FILES if (single / name).exists()}
    for name, data in contents.items():
        (single / name).write_bytes(data)
    try:
        flaw = find_flaw(single)
        assert "\n" not in flaw
        assert len(flaw) < 1000
    finally:
        for name in _FILES:
            (single / name).unlink(missing_ok=True)
        for name, data in kept.items():
            (single / name).write_bytes(data)


def test_a_signature_changes_with_every_file_that_is_read(single: Path) -> None:
    last = read_signature(single)
    assert read_signature(single) == last
    changes: list[Callable[[], object]] = [
        lambda: (single / "tokenizer.model").touch(),
        lambda: (single / "tokenizer.model").write_bytes(b"x"),
        lambda: (single / "model.safetensors").chmod(0o600),
        lambda: os.utime(single / "config.json", ns=(0, 0)),
        lambda: (single / "dangling.json").symlink_to("nowhere"),
        lambda: (single / "tokenizer.model").unlink(),
    ]
    for change in changes:
        change()
        assert read_signature(single) != last
        last = read_signature(single)
    (single / "train.log").write_text("a log may grow for ever")
    assert read_signature(single) == last
    shutil.rmtree(single)
    assert read_signature(single) != last


def test_only_folders_with_the_trainers_names_are_checkpoints(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "not there yet") == {}
    for name in (
        "global_step5_hf",
        "global_step10_hf",
        "global_step10",
        "best_hf",
        "x_global_step7_hf",
        f"global_step{'9' * 30}_hf",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "global_step30_hf").touch()
    assert set(list_checkpoints(tmp_path)) == {5, 10}
    assert parse_step(Path("a/global_step500_hf")) == 500
    assert parse_step(Path("a/final")) is None


@pytest.mark.parametrize("parent", ["", "_actor"])
def test_deepspeed_shards_are_recognised(tmp_path: Path, parent: str) -> None:
    assert find_deepspeed_checkpoint(tmp_path) is None
    (tmp_path / parent / "global_step25").mkdir(parents=True)
    assert find_deepspeed_checkpoint(tmp_path) == tmp_path / parent / "global_step25"


def test_old_weights_beside_new_ones_are_refused(
    tmp_path: Path, checkpoints: dict[int, Path]
) -> None:
    """transformers would load the single file, whichever is newer."""
    folder = shutil.copytree(checkpoints[20], tmp_path / "both")
    assert find_flaw(folder) == ""
    shutil.copy(checkpoints[10] / "model.safetensors", folder)
    assert "delete those that are old" in find_flaw(folder)
    for shard in folder.glob("model-*"):  # as transformers leaves it after it saved a single file
        shard.unlink()
    assert find_flaw(folder) == ""
