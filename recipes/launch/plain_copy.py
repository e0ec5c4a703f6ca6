"""A copy of a model whose config names no code of the model's own.

OpenRLHF and its vLLM engines load models with `trust_remote_code=True`. If the config has an
`auto_map`, the code beside the weights then replaces transformers' implementation. Phi-3.5-mini's
ignores `position_ids`, so that packed samples attend to each other, and its `_tied_weights_keys`
make `save_pretrained` fail.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from recipes.launch.settings import LaunchError

MARKER = "plain_copy.json"
"""The file in a copy that names what it was made from, so that nothing else is ever replaced."""
# Configs, tokenizer and weights. Code stays behind, and so do subfolders with other formats.
_PATTERNS = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.tiktoken", "*.txt")


def make_plain_copy(model: str, target: Path, *, link: bool) -> None:
    """Makes `target` a copy of a model without `auto_map`.

    Args:
        model: a folder or hub id. A hub id that is not in the cache is fetched.
        target: is replaced, if it is a copy already and the model or `link` has changed.
        link: True: the weights are symbolic links. False: they are copied.
    Raises:
        LaunchError: the model cannot be read, or the copy cannot be written.
    """
    source = _fetch(model)
    try:
        if target.resolve() == source:
            raise LaunchError(f"MODEL_PATH={model} is the copy itself; set PLAIN_COPY=0")
        found = {file for pattern in _PATTERNS for file in source.glob(pattern)}
        files = sorted(file for file in found if file.name != MARKER)
        _check_weights(source, {file.name for file in files})
        marker = {"source": model, "link": link, "files": {f.name: _identify(f) for f in files}}
        if _read_json(target / MARKER) == marker and all((target / f.name).exists() for f in files):
            return
        _check_replaceable(target)
        _write(files, target, marker, link=link)
    except OSError as error:
        raise LaunchError(
            f"cannot copy {model} to {target}: {error.filename}: {error.strerror}"
        ) from error


def read_source(folder: str) -> str | None:
    """The model that a copy was made from; None if the folder or hub id is no copy."""
    source = _read_json(Path(folder) / MARKER).get("source")
    return None if source is None else str(source)


def _fetch(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model).resolve()
    from huggingface_hub import snapshot_download

    try:
        # Subfolders and consolidated.safetensors have the same weights in other formats.
        folder = snapshot_download(
            model, allow_patterns=list(_PATTERNS), ignore_patterns=["*/*", "consolidated*"]
        )
    except Exception as error:  # the hub's, the network's and the disk's
        raise LaunchError(
            f"MODEL_PATH={model} is no folder, and cannot be fetched from the hub: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
        ) from error
    return Path(folder)


def _check_weights(source: Path, names: set[str]) -> None:
    """
    Raises:
        LaunchError: the folder has no config, or not all weights.
    """
    shards = _read_json(source / "model.safetensors.index.json").get("weight_map", {}).values()
    missing = sorted({"config.json", *shards} - names)
    if not missing and not any(name.endswith(".safetensors") for name in names):
        missing = ["*.safetensors"]
    if missing:
        raise LaunchError(f"{source} lacks {', '.join(missing[:3])}: no complete model")


def _identify(file: Path) -> list[Any]:
    """Changes whenever the file does."""
    real = file.resolve()
    stat = real.stat()
    return [str(real), stat.st_size, stat.st_mtime_ns]


def _check_replaceable(target: Path) -> None:
    if target.exists() and not (target / MARKER).is_file():
        raise LaunchError(f"{target} is in the way: it is no copy of a model (it has no {MARKER})")


def _write(files: list[Path], target: Path, marker: dict[str, Any], *, link: bool) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in files:
        copy = partial / file.name
        if file.name.endswith("config.json"):
            config = _read_json(file)
            config.pop("auto_map", None)
            copy.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        elif link:
            copy.symlink_to(file.resolve())
        else:
            shutil.copyfile(file, copy)
    (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n", "utf-8")
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)


def _read_json(file: Path) -> dict[str, Any]:
    """An object in a file; empty if there is no such file.

    Raises:
        LaunchError: the file is not a JSON object.
    """
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise LaunchError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise LaunchError(f"{file} is no JSON object")
    return value
