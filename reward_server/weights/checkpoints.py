"""Finds a trainer's checkpoints, and tells whether a checkpoint is completely written.

OpenRLHF writes `{ckpt.path}/global_step{N}_hf` with `--ckpt.save_hf`.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

_CHECKPOINT_NAME = re.compile(r"global_step(\d+)_hf")
_STEP = re.compile(r"global_step_?(\d+)")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
# A safetensors file starts with the length of its JSON header, which the format limits.
_HEADER_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a trainer's folder by training step, complete or not.

    Empty if the folder does not exist yet.
    """
    if not folder.is_dir():
        return {}
    found = ((_CHECKPOINT_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in found if match and path.is_dir()}


def parse_step(path: Path) -> int | None:
    """The training step in a checkpoint's name; None if its name has none."""
    match = _STEP.search(path.name)
    return int(match[1]) if match else None


def find_missing(path: Path) -> str:
    """Names the first file that a checkpoint lacks; empty if the checkpoint is complete.

    A file that the trainer is still writing is shorter than its safetensors header says.
    """
    try:
        if not (path / "config.json").is_file():
            return "config.json"
        json.loads((path / "config.json").read_text(encoding="utf-8"))
        if not any((path / name).is_file() for name in _TOKENIZER_FILES):
            return "a tokenizer"
        for name in _list_weight_files(path):
            if not _is_complete(path / name):
                return name
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        # The file was deleted meanwhile, or its JSON is cut off or not as expected.
        return f"a complete file: {error}"
    return ""


def _list_weight_files(path: Path) -> list[str]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(names)


def _is_complete(file: Path) -> bool:
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
