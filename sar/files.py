"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def open_atomically(path: Path, *, is_private: bool = False) -> Iterator[TextIO]:
    """Opens a text file (UTF-8) that appears under its name only once the block has succeeded.

    The text goes to `path` + ".partial" first. If the block raises, that file is removed and
    whatever was at `path` stays. A device or a pipe, such as /dev/null or /dev/stdout, gets the
    text as it comes.

    Args:
        is_private: only this user may read the file, whatever the umask.
    Raises:
        OSError: the file cannot be written.
    """
    if path.is_dir():  # said at once, not after hours of work
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # /dev/stdout can be a link to a file.
    if path.exists() and (not path.is_file() or path.parent == Path("/dev")):
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # it would keep its mode
        mode = 0o600 if is_private else 0o666
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(fd, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole text file with `open_atomically`."""
    with open_atomically(path) as file:
        file.write(text)
