"""Checkpoints that a trainer writes, file by file: which there are, and whether one is whole.

OpenRLHF writes `{ckpt.path}/global_step{N}_hf` with `--ckpt.save_hf`.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

_FOLLOWED = re.compile(r"global_step(\d+)_hf")
_STEP = re.compile(r"global_step_?(\d+)")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_HEADER_LENGTH = struct.Struct("<Q")
# The format's own bound; more is a file that is not one.
_MAX_HEADER_BYTES = 100_000_000


def steps_in(folder: Path) -> dict[int, Path]:
    """The checkpoints in a trainer's folder by their step, whole or not; empty if there is none."""
    if not folder.is_dir():
        return {}
    found = ((_FOLLOWED.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in found if match and path.is_dir()}


def step_of(path: Path) -> int | None:
    """The step that a checkpoint's name says."""
    match = _STEP.search(path.name)
    return int(match[1]) if match else None


def missing_from(path: Path) -> str:
    """What a checkpoint lacks to be whole; empty when it lacks nothing.

    A safetensors file says at its start how long it is, so that one which is still being written is
    told from a whole one without waiting.
    """
    try:
        if not (path / "config.json").is_file():
            return "config.json"
        json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not any((path / name).is_file() for name in _TOKENIZERS):
            return "a tokenizer"
        for name in _weight_files(path):
            if not _is_whole(path / name):
                return name
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        # Gone meanwhile, half a JSON file, or one with something else in it.
        return f"a whole file: {error}"
    return ""


def _weight_files(path: Path) -> list[str]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(names)


def _is_whole(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        start = opened.read(_HEADER_LENGTH.size)
        if len(start) < _HEADER_LENGTH.size:
            return False
        (num_bytes,) = _HEADER_LENGTH.unpack(start)
        header = opened.read(min(num_bytes, _MAX_HEADER_BYTES))
    if len(header) < num_bytes:
        return False
    tensors = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
    data_bytes = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    return bool(file.stat().st_size >= _HEADER_LENGTH.size + num_bytes + data_bytes)
