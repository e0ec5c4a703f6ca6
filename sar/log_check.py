"""Tells a reward log from other .jsonl files by its first line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sar.decision import Decision
from sar.errors import one_line
from sar.rescore import RescoreError, suggest_logs

_MAX_LINE_BYTES = 1 << 28


def check_log(path: Path, files: Sequence[Path]) -> None:
    """Refuses files that are no log.

    Args:
        path: what the user gave.
        files: the files there.
    Raises:
        RescoreError: the first line of no file is a decision. An empty log may still grow.
    """
    problem = ""
    for file in files:
        with file.open("rb") as lines:
            first = lines.readline(_MAX_LINE_BYTES)
        try:
            if first.endswith(b"\n"):  # else it is empty, or the server is writing it
                Decision.from_json(first.decode())
            return
        except ValueError as error:
            problem = problem or f"{file}: not a reward log: {one_line(error)}"
    hint = suggest_logs(path) if path.is_dir() else ""
    if hint:  # rather than what is wrong with another file
        problem = f"{path}: no reward log in it{hint}"
    raise RescoreError(problem)
