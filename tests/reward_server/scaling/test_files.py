"""Files of a checkpoint: recognised on other machines, and sent in parts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reward_server.scaling import files
from reward_server.scaling.files import OtherFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "global_step5_hf"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(os.urandom(1000))
    (made / "notes.md").write_text("not read")
    return made


def test_a_copy_on_another_machine_is_the_same(folder: Path, tmp_path: Path) -> None:
    listing = files.list_files(str(folder))
    assert sorted(listing) == ["config.json", "model.safetensors"]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)  # with its times, but other inodes
    files.check_files(str(copy), listing)


@pytest.mark.parametrize("name", ["model.safetensors", "extra.json"])
def test_other_files_are_named(folder: Path, name: str) -> None:
    listing = files.list_files(str(folder))
    (folder / name).write_bytes(b"other")
    with pytest.raises(OtherFiles, match=f"{name} is not, or not any more, the file"):
        files.check_files(str(folder), listing)


def test_a_folder_that_is_not_there_tells_what_to_do(folder: Path) -> None:
    listing = files.list_files(str(folder))
    shutil.rmtree(folder)
    with pytest.raises(OtherFiles, match="share the folder, or use --scorer-weights sent"):
        files.check_files(str(folder), listing)


def test_a_full_disk_leaves_nothing_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parts = files.split_files(str(folder), files.list_files(str(folder)), bytes)
    full = iter([b"{}"])
    with pytest.raises(StopIteration):
        files.write_files(parts, lambda _: next(full), "step5")
    assert [one.name for one in tmp_path.iterdir()] == [folder.name]


def test_an_id_has_no_files() -> None:
    assert files.list_files("Qwen/Qwen3-1.7B-Base") == {}
    files.check_files("Qwen/Qwen3-1.7B-Base", {})


def test_files_arrive_as_they_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PART_BYTES", 64)
    (folder / "empty.json").touch()
    store: list[bytes] = []

    def put(part: bytes) -> int:
        assert len(part) <= 64
        store.append(part)
        return len(store) - 1

    parts = files.split_files(str(folder), files.list_files(str(folder)), put)
    written = files.write_files(parts, store.__getitem__, folder.name)
    assert written.name == folder.name, "the step is in its name"
    for name in ("config.json", "model.safetensors", "empty.json"):
        assert (written / name).read_bytes() == (folder / name).read_bytes()
    assert len(list(written.iterdir())) == 3
    files.remove_written(written)
    assert not written.parent.exists()


def test_a_file_that_changes_while_it_is_read_is_refused(folder: Path) -> None:
    listing = files.list_files(str(folder))

    def put(_: bytes) -> None:
        (folder / "config.json").write_text("{} ")

    with pytest.raises(OtherFiles, match=r"config\.json"):
        files.split_files(str(folder), listing, put)


def test_what_a_killed_process_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = files.write_files([("config.json", [b"{}"])], bytes, "mine")
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, check=True, text=True)  # fmt: skip
    left = tmp_path / f"reward_server_weights_{done.stdout.strip()}_abc"
    left.mkdir()
    files.remove_leftovers()
    assert own.exists()
    assert not left.exists()
