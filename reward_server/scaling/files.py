"""The files of a checkpoint: whether two machines see the same, and their way through Ray.

Files travel in parts, so that neither side holds a whole checkpoint in memory besides Ray's own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from reward_server.weights.checkpoints import READ_SUFFIXES

Listing = Mapping[str, tuple[int, int]]
"""Size in bytes, and time of the last change in ns, by file name."""
Parts = Sequence[tuple[str, Sequence[Any]]]
"""The parts of each file, by file name."""

_PART_BYTES = 64 * 2**20
_PREFIX = "reward_server_weights_"


class OtherFiles(OSError):
    """The files are not those that were asked for. Others may be there later."""


def list_files(path: str) -> dict[str, tuple[int, int]]:
    """The files of a model's folder that are read. Empty for a Hugging Face id.

    Times and sizes are the same on all machines that share a folder, unlike owners and inodes.
    """
    if not os.path.isdir(path):
        return {}
    with os.scandir(path) as entries:
        return {
            entry.name: (entry.stat().st_size, entry.stat().st_mtime_ns)
            for entry in entries
            if entry.name.endswith(READ_SUFFIXES)
        }


def check_files(path: str, wanted: Listing) -> None:
    """
    Raises:
        OtherFiles: the folder does not hold these files on this machine.
    """
    if (found := list_files(path)) == wanted:
        return
    if not found:
        raise OtherFiles(
            f"{path} is not on this machine ({os.uname().nodename}): share the folder, or use "
            "--scorer-weights sent"
        )
    other = sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
    raise OtherFiles(f"{path}: {other[0]} is not, or not any more, the file that was loaded")


def split_files(path: str, wanted: Listing, put: Callable[[bytes], Any]) -> Parts:
    """Puts all files, in parts.

    Args:
        put: takes a part and returns what stands for it.
    Raises:
        OSError: a file cannot be read, or changed meanwhile.
    """
    check_files(path, wanted)
    parts = [(name, list(map(put, _read_parts(Path(path, name))))) for name in sorted(wanted)]
    check_files(path, wanted)
    return parts


def _read_parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while part := opened.read(_PART_BYTES):
            yield part


def write_files(parts: Parts, get: Callable[[Any], bytes], name: str) -> Path:
    """Writes files into a new folder for this process, and returns it.

    Args:
        get: returns a part.
        name: of the folder; messages of libraries name it.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}_")) / name
    try:
        folder.mkdir()
        for file, its_parts in parts:
            with (folder / Path(file).name).open("wb") as opened:
                for part in its_parts:
                    opened.write(get(part))
    except BaseException:  # a full disk would stay full
        remove_written(folder)
        raise
    return folder


def remove_written(folder: Path) -> None:
    """Removes a folder of `write_files`."""
    shutil.rmtree(folder.parent, ignore_errors=True)


def remove_leftovers() -> None:
    """Removes folders of `write_files` whose processes have ended, such as one that was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("_")[0]
        with suppress(OSError):
            if (
                pid.isdigit()
                and not Path("/proc", pid).exists()
                and folder.stat().st_uid == os.getuid()
            ):
                shutil.rmtree(folder, ignore_errors=True)
