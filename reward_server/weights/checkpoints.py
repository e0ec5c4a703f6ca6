"""Finds a trainer's checkpoints, and tells whether a checkpoint is completely written.

OpenRLHF writes `{ckpt.path}/global_step{N}_hf` with `--ckpt.save_hf`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sar.errors import one_line, quote

LORA_ADVICE = (
    "holds a LoRA adapter, which the server does not take: merge it into the base model before "
    "saving (peft's merge_and_unload), or train without --ds.lora.rank"
)

_CHECKPOINT_NAME = re.compile(r"global_step([0-9]{1,15})_hf")
_DEEPSPEED_NAME = re.compile(r"global_step[0-9]+")
_STEP = re.compile(r"global_step_?(\d+)")
_SINGLE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD_NAME = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
# Need not exist. If the trainer has begun to write one, it must be whole.
_OPTIONAL_JSON = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
)
_OPTIONAL_BINARIES = ("tokenizer.model", "spiece.model")
# Files with these endings are read when a checkpoint is loaded.
READ_SUFFIXES = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py")
# A safetensors file starts with the length of its JSON header, which the format limits.
_HEADER_LENGTH = struct.Struct("<Q")
_MAX_JSON_BYTES = 100_000_000


class _Flaw(Exception):
    """What is wrong with a checkpoint, in one line."""


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a trainer's folder by training step, complete or not.

    Empty if the folder does not exist yet.

    Raises:
        OSError: the folder cannot be read.
    """
    if not folder.is_dir():
        return {}
    found = ((_CHECKPOINT_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in found if match and _may_be_folder(path)}


def find_deepspeed_checkpoint(folder: Path) -> Path | None:
    """A checkpoint in DeepSpeed's own format, which OpenRLHF writes below `_actor`; None if there
    is none.

    Raises:
        OSError: the folder cannot be read.
    """
    for parent in (folder, folder / "_actor"):
        if parent.is_dir():
            for path in parent.iterdir():
                if _DEEPSPEED_NAME.fullmatch(path.name) and path.is_dir():
                    return path
    return None


def parse_step(path: Path) -> int | None:
    """The training step in a checkpoint's name; None if its name has none."""
    match = _STEP.search(path.name)
    return int(match[1]) if match else None


def read_signature(checkpoint: Path) -> Hashable:
    """Changes whenever one of the files that are read changes: its size, times, owner or mode."""
    try:
        with os.scandir(checkpoint) as entries:
            read = (entry for entry in entries if entry.name.endswith(READ_SUFFIXES))
            return frozenset((entry.name, _describe_file(entry)) for entry in read)
    except OSError as error:
        return error.errno


def find_flaw(checkpoint: Path) -> str:
    """Says in one line why a folder is no complete checkpoint; empty if it is one.

    A file that the trainer is still writing is shorter than its safetensors header says, or its
    JSON is cut off. Nothing that is in the folder raises an error here.
    """
    try:
        _check(checkpoint)
    except _Flaw as flaw:
        return str(flaw)
    return ""


def _check(checkpoint: Path) -> None:
    if any(os.path.lexists(checkpoint / name) for name in _ADAPTER_FILES):
        raise _Flaw(LORA_ADVICE)
    _check_json(checkpoint / "config.json")
    for name in _list_weight_files(checkpoint):
        _check_safetensors(checkpoint / name)
    if not any(os.path.lexists(checkpoint / name) for name in _TOKENIZER_FILES):
        raise _Flaw("a tokenizer is missing")
    for name in _OPTIONAL_JSON:
        if os.path.lexists(checkpoint / name):
            _check_json(checkpoint / name)
    for name in _OPTIONAL_BINARIES:
        if os.path.lexists(checkpoint / name):
            _check_not_empty(checkpoint / name)


def _list_weight_files(checkpoint: Path) -> list[str]:
    """One file, or the shards that an index names."""
    if not os.path.lexists(checkpoint / _INDEX):
        return [_SINGLE_FILE]
    names = _read_shard_names(checkpoint / _INDEX)
    if _SINGLE_FILE not in names and os.path.lexists(checkpoint / _SINGLE_FILE):
        # transformers' save_pretrained deletes old shards, but not their index, nor a single file.
        if not any(os.path.lexists(checkpoint / name) for name in names):
            return [_SINGLE_FILE]
        raise _Flaw(
            f"it holds {_SINGLE_FILE} and, in {_INDEX}, other weights: delete those that are old"
        )
    return names


def _read_shard_names(index: Path) -> list[str]:
    with _open(index) as opened:
        names = sorted(set(_parse_object(opened.read(_MAX_JSON_BYTES + 1))["weight_map"].values()))
        for name in names:
            if not _SHARD_NAME.fullmatch(name):
                raise ValueError(f"it names {quote(name)}, which is no weights of this folder")
        if not names:
            raise ValueError("it names no file")
        return names


def _check_json(file: Path) -> None:
    with _open(file) as opened:
        _parse_object(opened.read(_MAX_JSON_BYTES + 1))


def _check_not_empty(file: Path) -> None:
    with _open(file) as opened:
        if not opened.read(1):
            raise _Flaw(f"{file.name} is empty")


def _check_safetensors(file: Path) -> None:
    with _open(file) as opened:
        (num_bytes,) = _HEADER_LENGTH.unpack(opened.read(_HEADER_LENGTH.size))
        if num_bytes > _MAX_JSON_BYTES:
            raise ValueError(f"a header of {num_bytes} bytes")
        tensors = _parse_object(opened.read(num_bytes))
        tensors.pop("__metadata__", None)
        num_bytes += max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        if not os.fstat(opened.fileno()).st_size >= _HEADER_LENGTH.size + num_bytes:
            raise ValueError("the file is shorter than its header says")


def _parse_object(data: bytes) -> dict[str, Any]:
    """
    Raises:
        ValueError, RecursionError: it is no JSON object.
    """
    if len(data) > _MAX_JSON_BYTES:
        raise ValueError(f"more than {_MAX_JSON_BYTES} bytes")
    parsed = json.loads(data.decode())
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")
    return parsed


@contextmanager
def _open(file: Path) -> Iterator[BinaryIO]:
    """Opens a file to read. An error in the block is a flaw of this file."""
    try:
        with open(file, "rb", opener=_open_without_waiting) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise _Flaw(f"{file.name} is not a regular file")
            yield opened
    except FileNotFoundError as error:
        raise _Flaw(f"{file.name} is missing") from error
    except PermissionError as error:
        raise _Flaw(
            f"{file.name}: permission denied for user {os.geteuid()}: run the server as the user "
            "that trains, or make the files readable (safetensors writes weights with mode 0600)"
        ) from error
    except OSError as error:
        raise _Flaw(f"{file.name} cannot be read: {error.strerror or one_line(error)}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as e:
        raise _Flaw(f"{file.name} is cut off or broken: {one_line(e)}") from e


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a named pipe too: by default, that waits until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _describe_file(entry: os.DirEntry[str]) -> Hashable:
    try:
        found = entry.stat()
    except OSError as error:  # such as a link to a file that is not there yet
        return error.errno
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return (found.st_ino, found.st_size, *times, found.st_mode, found.st_uid, found.st_gid)


def _may_be_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a link to where this user may not go: `find_flaw` says so
        return True
