"""Copies of models whose configs name code of their own, and the preflight's check for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.launch.plain_copy import MARKER, make_plain_copy, read_source
from recipes.launch.settings import LaunchError
from recipes.preflight_policy import CheckFailed, check_code

ROOT = Path(__file__).parents[2]
AUTO_MAP = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
CODE = (
    "from transformers import Phi3ForCausalLM\n\nclass OwnForCausalLM(Phi3ForCausalLM):\n    pass\n"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, bundled_model_path: Path) -> Path:
    """A tiny Phi-3 in two shards, with the bundled tokenizer."""
    from transformers import Phi3Config, Phi3ForCausalLM

    folder = tmp_path_factory.mktemp("models") / "Tiny-Phi"
    config = Phi3Config(
        vocab_size=2048, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    Phi3ForCausalLM(config).save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (bundled_model_path / name).exists():
            shutil.copy(bundled_model_path / name, folder)
    return folder


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """The same model with code of its own, as on the hub."""
    folder = tmp_path / "hub" / tiny.name
    shutil.copytree(tiny, folder)
    change(folder / "config.json", auto_map=AUTO_MAP, name_of="Ünder")
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    (folder / "modeling_own.py").write_text(CODE)
    (folder / "original").mkdir()
    (folder / "original/consolidated.safetensors").touch()
    return folder


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files with their contents and times."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(f): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


@pytest.mark.parametrize("link", [True, False])
def test_transformers_own_code_runs_the_copy(
    link: bool, own: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3ForCausalLM

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    before = snapshot(own)
    target = tmp_path / "run/model" / own.name
    make_plain_copy(str(own), target, link=link)
    assert snapshot(own) == before
    assert {f.is_symlink() for f in target.glob("*.safetensors")} == {link}
    assert not list(target.glob("*.py"))
    assert not (target / "original").exists()
    assert read_source(str(target)) == str(own)
    config = json.loads((own / "config.json").read_text())
    del config["auto_map"]
    assert json.loads((target / "config.json").read_text()) == config

    # As OpenRLHF loads it.
    sys.path.insert(0, str(tmp_path / "m"))
    try:
        theirs = AutoModelForCausalLM.from_pretrained(own, trust_remote_code=True)
    finally:
        sys.path.remove(str(tmp_path / "m"))
    assert type(theirs).__name__ == "OwnForCausalLM"
    model = AutoModelForCausalLM.from_pretrained(target, trust_remote_code=True)
    assert type(model) is Phi3ForCausalLM
    plain = AutoModelForCausalLM.from_pretrained(tiny)
    assert torch.equal(model.lm_head.weight, plain.lm_head.weight)
    tokenizer = AutoTokenizer.from_pretrained(target, trust_remote_code=True)
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((saved / name).read_text())


@pytest.mark.parametrize("link", [True, False])
def test_a_copy_is_reused_until_the_model_changes(link: bool, own: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    make_plain_copy(str(own), target, link=link)
    inode = target.stat().st_ino
    make_plain_copy(str(own), target, link=link)
    assert target.stat().st_ino == inode
    change(own / "config.json", hidden_act="gelu")
    (own / "special_tokens_map.json").write_text("{}")
    make_plain_copy(str(own), target, link=link)
    assert json.loads((target / "config.json").read_text())["hidden_act"] == "gelu"
    (own / "special_tokens_map.json").unlink()
    make_plain_copy(str(own), target, link=link)
    assert not (target / "special_tokens_map.json").exists()
    make_plain_copy(str(own), target, link=not link)
    assert {f.is_symlink() for f in target.glob("*.safetensors")} == {not link}


def test_a_broken_link_is_mended(own: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    make_plain_copy(str(own), target, link=True)
    (weights := next(target.glob("*.safetensors"))).unlink()
    weights.symlink_to(tmp_path / "gone")
    make_plain_copy(str(own), target, link=True)
    assert weights.exists()


def test_a_copy_of_a_copy(own: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_plain_copy(str(own), first, link=True)
    before = snapshot(first)
    make_plain_copy(str(first), second, link=True)
    assert snapshot(first) == before
    assert read_source(str(second)) == str(first)
    with pytest.raises(LaunchError, match="is the copy itself; set PLAIN_COPY=0"):
        make_plain_copy(str(first), first, link=True)
    assert snapshot(first) == before


def test_a_folder_that_is_no_copy_is_not_replaced(own: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("years")
    with pytest.raises(LaunchError, match="is in the way"):
        make_plain_copy(str(own), target, link=True)
    assert (target / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("config.json", r"lacks config\.json"),
        ("model-00001-of-*.safetensors", r"lacks model-00001-of-\d+\.safetensors"),
        ("model*", r"lacks model\.safetensors: "),
    ],
)
def test_an_incomplete_model(own: Path, tmp_path: Path, removed: str, said: str) -> None:
    for file in own.glob(removed):
        file.unlink()
    with pytest.raises(LaunchError, match=said):
        make_plain_copy(str(own), tmp_path / "copy", link=True)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "model.fp16.safetensors"])
def test_weights_that_transformers_would_not_load(name: str, own: Path, tmp_path: Path) -> None:
    for file in own.glob("model*"):
        file.unlink()
    (own / name).write_bytes(b"weights")
    with pytest.raises(LaunchError, match=rf"lacks model\.safetensors \(it has {name}\)"):
        make_plain_copy(str(own), tmp_path / "copy", link=True)


def test_weights_that_are_empty(own: Path, tmp_path: Path) -> None:
    next(own.glob("model-00001*")).write_bytes(b"")
    with pytest.raises(LaunchError, match=r"model-00001-of-\d+\.safetensors is empty"):
        make_plain_copy(str(own), tmp_path / "copy", link=True)


@pytest.mark.parametrize("weight_map", [[], "a", 1, None, {"a": 1}, {"a": ["b"]}])
def test_a_broken_index(weight_map: Any, own: Path, tmp_path: Path) -> None:
    change(own / "model.safetensors.index.json", weight_map=weight_map)
    with pytest.raises(LaunchError, match=r"index\.json: its weight_map does not name a file"):
        make_plain_copy(str(own), tmp_path / "copy", link=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", MARKER])
@pytest.mark.parametrize("depth", [300, 900, 100_000])
def test_a_file_that_is_nested_too_deeply(name: str, depth: int, own: Path, tmp_path: Path) -> None:
    """Some depths can be read and not written."""
    target = tmp_path / "copy"
    if name == MARKER:
        make_plain_copy(str(own), target, link=True)
    deep = '{"a":' * depth + "1" + "}" * depth
    ((target if name == MARKER else own) / name).write_text(deep)
    try:
        make_plain_copy(str(own), target, link=True)
    except LaunchError as error:
        assert str(error).endswith(f"{name} is nested too deeply")  # noqa: PT017  or none
    else:
        assert depth < 100_000


def test_a_lone_surrogate_is_copied(own: Path, tmp_path: Path) -> None:
    change(own / "config.json", name_of="\ud800")
    make_plain_copy(str(own), tmp_path / "copy", link=True)
    assert json.loads((tmp_path / "copy/config.json").read_text())["name_of"] == "\ud800"


def test_inner_configs_name_no_code_either(own: Path, tmp_path: Path) -> None:
    inner = {"model_type": "llama", "parts": [{"auto_map": AUTO_MAP, "size": 1}]}
    change(own / "config.json", text_config={**inner, "auto_map": AUTO_MAP})
    make_plain_copy(str(own), tmp_path / "copy", link=True)
    copied = json.loads((tmp_path / "copy/config.json").read_text())
    assert copied["text_config"] == {"model_type": "llama", "parts": [{"size": 1}]}


def test_a_tokenizer_that_is_the_models_own_code(own: Path, tmp_path: Path) -> None:
    file = own / "tokenizer_config.json"
    for auto_map in (["tok.Own", None], [None, "me/it--tok.Own"], "tok.Own"):
        change(file, tokenizer_class="Own", auto_map={"AutoTokenizer": auto_map})
        with pytest.raises(LaunchError, match="names the tokenizer Own, which is code of the"):
            make_plain_copy(str(own), tmp_path / "copy", link=True)
    change(file, tokenizer_class="LlamaTokenizer", auto_map={"AutoTokenizer": "t.LlamaTokenizer"})
    make_plain_copy(str(own), tmp_path / "copy", link=True)


@pytest.mark.parametrize("link", [True, False])
def test_two_launches_at_once(
    link: bool, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one copies its first file, another makes the whole copy, perhaps with links."""
    target = tmp_path / "model/copy"
    copy = shutil.copyfile

    def interrupt(*arguments: Any) -> None:
        monkeypatch.setattr(shutil, "copyfile", copy)
        make_plain_copy(str(own), target, link=link)
        copy(*arguments)

    monkeypatch.setattr(shutil, "copyfile", interrupt)
    make_plain_copy(str(own), target, link=False)
    assert {f.is_symlink() for f in target.glob("*.safetensors")} == {False}
    assert len(list(target.glob("*.safetensors"))) == len(list(own.glob("*.safetensors")))
    assert list(target.parent.iterdir()) == [target]


def test_a_broken_config(own: Path, tmp_path: Path) -> None:
    (own / "config.json").write_text('{"auto_map"')
    with pytest.raises(LaunchError, match=r"config\.json is not JSON"):
        make_plain_copy(str(own), tmp_path / "copy", link=True)


def into_hub_cache(folder: Path, cache: Path, model: str) -> None:
    """The layout of huggingface_hub's cache: snapshots are links to blobs."""
    root = cache / f"models--{model.replace('/', '--')}"
    commit = "0" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text(commit)
    (root / "blobs").mkdir()
    (root / "snapshots" / commit).mkdir(parents=True)
    for number, file in enumerate(file for file in folder.iterdir() if file.is_file()):
        shutil.copy(file, root / "blobs" / f"{number:040}")
        (root / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{number:040}")


def make_in_process(model: str, target: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its settings when it is imported."""
    code = (
        "import sys, pathlib; from recipes.launch import plain_copy, settings\n"
        "try: plain_copy.make_plain_copy(sys.argv[1], pathlib.Path(sys.argv[2]), link=True)\n"
        "except settings.LaunchError as error: sys.exit(str(error))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, model, str(target)],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_a_hub_id_in_the_cache(own: Path, tmp_path: Path) -> None:
    cache, target = tmp_path / "cache", tmp_path / "copy"
    into_hub_cache(own, cache, "ms/Tiny-Phi")
    before = snapshot(cache)
    done = make_in_process("ms/Tiny-Phi", target, cache)
    assert (done.returncode, done.stderr) == (0, "")
    assert snapshot(cache) == before
    assert read_source(str(target)) == "ms/Tiny-Phi"
    for weights in target.glob("*.safetensors"):
        assert weights.readlink().parent.name == "blobs"  # not a link to a link
    check_code(str(target))


def test_a_hub_id_that_cannot_be_fetched(tmp_path: Path) -> None:
    done = make_in_process("ms/Tiny-Phi", tmp_path / "copy", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("MODEL_PATH=ms/Tiny-Phi is no folder, and cannot be fetched")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_the_preflight_refuses_a_model_with_code_of_its_own(file: str, own: Path) -> None:
    for other in {"config.json", "tokenizer_config.json"} - {file}:
        change(own / other, auto_map=None)
    with pytest.raises(CheckFailed) as raised:
        check_code(str(own))
    said = str(raised.value)
    assert said.startswith(f"{own}: its {file} has auto_map, so OpenRLHF would run code")
    assert "set PLAIN_COPY=1" in said


def test_the_preflight_refuses_a_model_that_transformers_has_not(own: Path, tmp_path: Path) -> None:
    change(own / "config.json", model_type="own")
    for model in (own, tmp_path / "copy"):
        if model != own:
            make_plain_copy(str(own), model, link=True)
        with pytest.raises(CheckFailed, match="has no model of the type 'own'"):
            check_code(str(model))


def test_the_preflight_takes_a_copy_and_a_plain_model(
    own: Path, tiny: Path, tmp_path: Path
) -> None:
    check_code(str(tiny))
    assert read_source(str(tiny)) is None
    make_plain_copy(str(own), tmp_path / "copy", link=True)
    check_code(str(tmp_path / "copy"))


def test_a_model_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="cannot load the config of"):
        check_code(str(tmp_path))


def test_the_marker_is_no_file_of_the_model(own: Path, tmp_path: Path) -> None:
    make_plain_copy(str(own), tmp_path / "copy", link=True)
    assert MARKER not in json.loads((tmp_path / "copy" / MARKER).read_text())["files"]
