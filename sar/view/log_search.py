"""Searches the texts of a reward log, the latest rollouts first, for as long as it may take.

The log's lines are JSON. A block of them is searched as bytes, and only the lines that may match
are parsed.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sar.decision import Decision
from sar.view.source import Found, contains, fold

_BLOCK_ROLLOUTS = 256


def search_log(
    db: sqlite3.Connection,
    folder: Path,
    text: str,
    *,
    before: int,
    num_rows: int,
    timeout_s: float,
) -> Found:
    """See `Source.search`."""
    deadline_s = time.monotonic() + timeout_s
    names = dict(db.execute("SELECT id, name FROM files"))
    needles = _encode(text)
    folded = fold(text)
    found: list[int] = []
    while time.monotonic() < deadline_s:
        rows = db.execute(
            "SELECT id, file, offset, size FROM rollouts WHERE id < ? ORDER BY id DESC LIMIT ?",
            (before, _BLOCK_ROLLOUTS),
        ).fetchall()
        if not rows:
            return Found(found, 0)
        for number, line in _read_lines(folder, names, rows):
            before = number
            lowered = line.lower()
            if any(needle in lowered for needle in needles):
                with suppress(ValueError):
                    if contains(Decision.from_json(line.decode()), folded):
                        found.append(number)
            if len(found) == num_rows:
                return Found(found, before)
        before = rows[-1][0]
    return Found(found, before)


def _encode(text: str) -> set[bytes]:
    """The text as it may stand in a line, in small letters: JSON may escape what is not ASCII."""
    texts = (json.dumps(text, ensure_ascii=escapes)[1:-1] for escapes in (True, False))
    return {fold(encoded) for encoded in texts}


def _read_lines(
    folder: Path, names: dict[int, str], rows: list[tuple[int, int, int, int]]
) -> Iterator[tuple[int, bytes]]:
    """The lines of some rollouts, in their order. What cannot be read is left out."""
    start = 0
    while start < len(rows):
        file = rows[start][1]
        end = start
        while end < len(rows) and rows[end][1] == file:
            end += 1
        same_file = rows[start:end]
        first = min(offset for _, _, offset, _ in same_file)
        last = max(offset + size for _, _, offset, size in same_file)
        with suppress(OSError), (folder / names[file]).open("rb") as log:
            log.seek(first)
            data = log.read(last - first)
            for number, _, offset, size in same_file:
                yield number, data[offset - first : offset - first + size]
        start = end
