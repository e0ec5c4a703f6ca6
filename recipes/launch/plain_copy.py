"""A copy of a model whose config names no code of the model's own.

OpenRLHF and its vLLM engines load models with `trust_remote_code=True`. If the config has an
`auto_map`, the code beside the weights then replaces transformers' implementation. Phi-3.5-mini's
ignores `position_ids`, so that packed samples attend to each other, and its `_tied_weights_keys`
make `save_pretrained` fail.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recipes.fetch_model import MODEL_FILES, fetch_model
from recipes.launch.settings import LaunchError

MARKER = "plain_copy.json"
"""The file in a copy that names what it was made from, so that nothing else is ever replaced."""


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
        found = {file for pattern in MODEL_FILES for file in source.glob(pattern)}
        files = sorted(file for file in found if file.name != MARKER)
        _check_weights(source, {file.name for file in files})
        _check_tokenizer(source)
        marker = {"source": model, "link": link, "files": {f.name: _identify(f) for f in files}}
        if _is_current(target, marker):
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
    try:
        return fetch_model(model)
    except ValueError as error:
        raise LaunchError(f"MODEL_PATH={error}") from error


def _check_weights(source: Path, names: set[str]) -> None:
    """
    Raises:
        LaunchError: the folder has no config, or not all weights that transformers would load.
    """
    index = source / "model.safetensors.index.json"
    shards = _read_json(index).get("weight_map", {})
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise LaunchError(f"{index}: its weight_map does not name a file for each weight")
    needed = {"config.json", *(shards.values() or ["model.safetensors"])}
    if missing := sorted(needed - names):
        others = sorted(name for name in names - needed if name.endswith(".safetensors"))
        has = f" (it has {others[0]})" if others else ""
        raise LaunchError(f"{source} lacks {', '.join(missing[:3])}{has}: no complete model")
    if empty := sorted(name for name in needed if not (source / name).stat().st_size):
        raise LaunchError(f"{source}/{empty[0]} is empty: no complete model")


def _check_tokenizer(source: Path) -> None:
    """
    Raises:
        LaunchError: the tokenizer's class is the model's own code. Without `auto_map` transformers
            would take another class, which may split texts differently.
    """
    file = source / "tokenizer_config.json"
    config = _read_json(file)
    auto_map, name = config.get("auto_map"), config.get("tokenizer_class")
    own = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else None
    paths: Iterable[Any] = own if isinstance(own, list) else [own]
    if not name or not any(str(path).rpartition(".")[2] == name for path in paths):
        return
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if tokenizer_class_from_name(name) is None:
        raise LaunchError(
            f"{file} names the tokenizer {name}, which is code of the model's own, and a copy has "
            "none; train a model whose tokenizer is one of transformers'"
        )


def _identify(file: Path) -> list[Any]:
    """Changes whenever the file does."""
    real = file.resolve()
    stat = real.stat()
    return [str(real), stat.st_size, stat.st_mtime_ns]


def _check_replaceable(target: Path) -> None:
    if target.exists() and not (target / MARKER).is_file():
        raise LaunchError(f"{target} is in the way: it is no copy of a model (it has no {MARKER})")


def _is_current(target: Path, marker: dict[str, Any]) -> bool:
    """Whether a copy is that of the marker, with all files."""
    return _read_json(target / MARKER) == marker and all(
        (target / name).exists() for name in marker["files"]
    )


def _write(files: list[Path], target: Path, marker: dict[str, Any], *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Of this launch alone: another one may write the same copy at the same time.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        partial = Path(scratch) / "new"
        partial.mkdir()
        for file in files:
            copy = partial / file.name
            if file.name.endswith("config.json"):
                copy.write_text(_dump(_read_json(file, leave_out="auto_map"), file), "utf-8")
            elif link:
                copy.symlink_to(file.resolve())
            else:
                shutil.copyfile(file, copy)
        (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n", "utf-8")
        if _is_current(target, marker):
            return
        try:
            if target.exists():
                target.rename(Path(scratch) / "old")
            partial.rename(target)
        except OSError:
            if not _is_current(target, marker):  # else another launch was faster
                raise


def _dump(config: dict[str, Any], file: Path) -> str:
    """
    Raises:
        LaunchError: the config is nested too deeply.
    """
    try:
        return json.dumps(config, indent=2) + "\n"  # ASCII: a text may have a lone surrogate
    except RecursionError:
        raise LaunchError(f"{file} is nested too deeply") from None


def _read_json(file: Path, leave_out: str | None = None) -> dict[str, Any]:
    """An object in a file; empty if there is no such file.

    Args:
        leave_out: a key to leave out, of objects inside the object, too.
    Raises:
        LaunchError: the file is not a JSON object, or is nested too deeply.
    """
    if not file.is_file():
        return {}

    def drop(found: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in found.items() if key != leave_out}

    try:
        value = json.loads(file.read_text("utf-8"), object_hook=drop)
    except ValueError as error:
        raise LaunchError(f"{file} is not JSON: {error}") from error
    except RecursionError:
        raise LaunchError(f"{file} is nested too deeply") from None
    if not isinstance(value, dict):
        raise LaunchError(f"{file} is no JSON object")
    return value
