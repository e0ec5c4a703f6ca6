"""Which log files belong together: those of one run are audited as one log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sar.log_check import check_log
from sar.rescore import find_log_files

# As the reward server names the files of a log: its start, its process, the file's number.
_SERVERS_FILE = re.compile(r"rewards-[0-9TZ]+-\d+-\d+\.jsonl")


@dataclass(frozen=True)
class Log:
    """The log of one run."""

    name: str
    """As the user gave it; a folder, if several of its files were given."""
    files: Sequence[Path]


def split_into_logs(paths: Sequence[Path]) -> list[Log]:
    """The logs at these paths, each once.

    A folder is one log: a run that was resumed, or had several servers, has several files in it.
    Files that a server named are one log if they lie in one folder. Any other file is a log.

    Raises:
        RescoreError: a path does not exist, or a folder is no log.
    """
    given: dict[Path, list[Path]] = {}
    for path in paths:
        is_part = not path.is_dir() and _SERVERS_FILE.fullmatch(path.name)
        key = path.parent if is_part else path
        given.setdefault(key.resolve(), []).append(path)
    return [_make_log(own) for own in given.values()]


def _make_log(paths: Sequence[Path]) -> Log:
    folders = [path for path in paths if path.is_dir()]
    if folders:  # its files need not be named as well
        files = find_log_files(folders[:1])
        check_log(folders[0], files)
        return Log(_show(folders[0]), files)
    files = find_log_files(paths)
    return Log(_show(files[0] if len(files) == 1 else files[0].parent), sorted(files))


def _show(path: Path) -> str:
    # A file's name may have bytes that are no UTF-8.
    return str(path).encode(errors="backslashreplace").decode()
