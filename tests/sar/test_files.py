"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sar.files import open_atomically, write_atomically


def test_a_file_appears_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with open_atomically(path) as file:
        file.write("é\n")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()
    assert list(path.parent.iterdir()) == [path]


def write_half(path: Path, error: type[BaseException]) -> None:
    with open_atomically(path) as file:
        file.write("half of it")
        raise error


def test_a_block_that_raises_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "a.txt", ZeroDivisionError)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_raises_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path, KeyboardInterrupt)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_complete_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "a long old text")
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_a_folder_in_the_place_of_the_file_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(IsADirectoryError, match="a"),
        open_atomically(tmp_path / "a"),
    ):
        pytest.fail("the work is done in vain")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("umask", [0, 0o022])
def test_a_private_file_can_be_read_by_this_user_only(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    (tmp_path / "a.txt.partial").write_text("of a process that was killed")
    before = os.umask(umask)
    try:
        with open_atomically(path, is_private=True) as file:
            file.write("new")
        write_atomically(tmp_path / "b.txt", "for all")
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "b.txt").stat().st_mode) == 0o666 & ~umask


def test_a_pipe_or_a_device_is_written_and_not_replaced(tmp_path: Path) -> None:
    """Replaced by a file, /dev/null would be missed by everybody."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]
