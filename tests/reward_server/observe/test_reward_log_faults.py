"""The reward log with full disks, full queues, deleted files and a killed process."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reward_server.observe import reward_log
from reward_server.observe.reward_log import RewardLog
from sar.rescore import read_log

if TYPE_CHECKING:
    from tests.reward_server.observe.conftest import MakeDecision, ReadAll, WaitFor

ROOT = Path(__file__).parents[3]
WRITER = Path(__file__).parent / "reward_log_writer.py"
WAIT_S = 60.0


class Disk:
    """Replaces os.write. While it is full, it writes a few bytes of a line and then fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        self.num_refused = 0
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: Any) -> int:
        # Only the writes of the log's thread fail, not others of this process.
        if threading.current_thread().name != "reward-log" or not self.is_full:
            return self._write(fd, data)
        if self.num_refused % 2 == 0:
            self.num_refused += 1
            return self._write(fd, bytes(data)[:20])
        self.num_refused += 1
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(reward_log, "_RETRY_S", 0.02)
    return Disk(monkeypatch)


def test_a_full_disk_loses_nothing_once_there_is_room(
    tmp_path: Path,
    disk: Disk,
    caplog: pytest.LogCaptureFixture,
    numbered_decision: MakeDecision,
    read_all: ReadAll,
    wait_for: WaitFor,
) -> None:
    log = RewardLog(tmp_path)
    log.record([numbered_decision(n) for n in range(10)])
    wait_for(lambda: not log.num_queued)
    disk.is_full = True
    log.record([numbered_decision(n) for n in range(10, 20)])
    wait_for(lambda: disk.num_refused >= 10)
    assert log.num_queued == 10
    assert len(read_all(tmp_path)) == 10  # partial lines were removed
    disk.is_full = False
    log.close()
    assert [d.request_id for d in read_all(tmp_path)] == [f"r{n}" for n in range(20)]
    assert log.num_dropped == 0
    messages = [record.getMessage() for record in caplog.records]
    assert len([m for m in messages if "No space left on device" in m]) == 1  # once a minute
    assert len([m for m in messages if "written again" in m]) == 1


def test_a_partial_line_that_cannot_be_removed_ends_its_file(
    tmp_path: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    numbered_decision: MakeDecision,
    wait_for: WaitFor,
) -> None:
    log = RewardLog(tmp_path)
    log.record([numbered_decision(0)])
    wait_for(lambda: not log.num_queued)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        disk.is_full = True
        log.record([numbered_decision(1)])
        wait_for(lambda: disk.num_refused == 2)
        disk.is_full = False
        wait_for(lambda: not log.num_queued)
    log.close()
    torn: list[str] = []
    files = sorted(tmp_path.glob("*.jsonl"))
    found = [d.decision.request_id for f in files for d in read_log(f, on_torn=torn.append)]
    assert found == ["r0", "r1"]
    assert torn == [f"{files[0]}:2"]


def test_a_full_queue_drops_new_decisions_and_logs_it_once(
    tmp_path: Path,
    disk: Disk,
    caplog: pytest.LogCaptureFixture,
    numbered_decision: MakeDecision,
    read_all: ReadAll,
    wait_for: WaitFor,
) -> None:
    size = reward_log._size_chars(numbered_decision())
    log = RewardLog(tmp_path, max_queued_chars=5 * size)
    disk.is_full = True
    start = time.monotonic()
    for number in range(100):
        log.record([numbered_decision(number)])
    assert time.monotonic() - start < WAIT_S / 2
    assert (log.num_queued, log.num_dropped) == (5, 95)
    disk.is_full = False
    wait_for(lambda: not log.num_queued)
    log.record([numbered_decision(200)])
    log.close()
    assert [d.request_id for d in read_all(tmp_path)] == ["r0", "r1", "r2", "r3", "r4", "r200"]
    assert len([r for r in caplog.records if "queue is full" in r.getMessage()]) == 1


def test_the_queue_is_bounded_by_the_size_of_its_texts(
    tmp_path: Path, disk: Disk, numbered_decision: MakeDecision, read_all: ReadAll
) -> None:
    log = RewardLog(tmp_path, max_queued_chars=1_000_000)
    disk.is_full = True
    log.record([numbered_decision(n, "x" * 300_000) for n in range(10)])
    assert (log.num_queued, log.num_dropped) == (3, 7)
    disk.is_full = False
    log.close()
    assert len(read_all(tmp_path)) == 3


def test_close_on_a_full_disk_ends_in_time_and_counts_lost_decisions(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture, numbered_decision: MakeDecision
) -> None:
    log = RewardLog(tmp_path)
    disk.is_full = True
    log.record([numbered_decision(n) for n in range(7)])
    start = time.monotonic()
    log.close(timeout_s=0.3)
    assert time.monotonic() - start < WAIT_S / 2
    assert log.num_dropped == 7
    assert "could not be written" in caplog.text
    log.record([numbered_decision()])  # after the close: counted, and no error
    assert log.num_dropped == 8


def test_close_during_a_write_that_hangs_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbered_decision: MakeDecision
) -> None:
    goes_on = threading.Event()
    write = os.write

    def hang(fd: int, data: Any) -> int:
        if threading.current_thread().name == "reward-log":
            goes_on.wait(WAIT_S)
        return write(fd, data)

    monkeypatch.setattr(reward_log, "_RETRY_S", 0.02)
    monkeypatch.setattr(os, "write", hang)
    log = RewardLog(tmp_path)
    log.record([numbered_decision(n) for n in range(3)])
    start = time.monotonic()
    log.close(timeout_s=0.2)
    assert time.monotonic() - start < WAIT_S / 2
    assert log.num_dropped == 3
    goes_on.set()
    log._thread.join(WAIT_S)
    assert not log._thread.is_alive()


def test_a_deleted_file_is_followed_by_a_new_one(
    tmp_path: Path, numbered_decision: MakeDecision, read_all: ReadAll, wait_for: WaitFor
) -> None:
    folder = tmp_path / "log"
    log = RewardLog(folder)
    log.record([numbered_decision(0)])
    wait_for(lambda: not log.num_queued)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    log.record([numbered_decision(1)])
    log.close()
    assert [d.request_id for d in read_all(folder)] == ["r1"]


def test_a_decision_that_is_no_json_is_counted_and_the_log_goes_on(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    numbered_decision: MakeDecision,
    read_all: ReadAll,
) -> None:
    log = RewardLog(tmp_path)
    not_finite = replace(numbered_decision(), nll_qa=float("nan"))
    log.record(
        [numbered_decision(0), not_finite, numbered_decision(1, "\ud800"), numbered_decision(2)]
    )
    log.close()
    assert [d.request_id for d in read_all(tmp_path)] == ["r0", "r2"]
    assert log.num_dropped == 2
    assert "cannot be written as JSON" in caplog.text


def test_no_message_holds_a_prompt_or_response(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture, numbered_decision: MakeDecision
) -> None:
    caplog.set_level(logging.DEBUG)
    log = RewardLog(tmp_path, max_queued_chars=3000)
    disk.is_full = True
    log.record([numbered_decision(0, "SECRET"), numbered_decision(1, "SECRET")])
    log.close(timeout_s=0.1)
    assert caplog.records
    assert "SECRET" not in caplog.text


@contextmanager
def tiny_disk(folder: Path) -> Iterator[Path]:
    """Mounts a file system of 256 KiB; skips the test if mounting is not permitted."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    numbered_decision: MakeDecision,
    read_all: ReadAll,
    wait_for: WaitFor,
) -> None:
    monkeypatch.setattr(reward_log, "_RETRY_S", 0.02)
    with tiny_disk(tmp_path / "disk") as folder:
        filler = folder / "filler"
        filler.write_bytes(b"x" * 180 * 1024)
        log = RewardLog(folder, max_file_bytes=30_000)
        decisions = [numbered_decision(n) for n in range(200)]  # 140 kB
        log.record(decisions)
        wait_for(lambda: log.num_queued < 190)
        time.sleep(0.3)
        assert log.num_queued > 0
        assert read_all(folder) == decisions[: -log.num_queued]
        filler.unlink()
        log.close()
        assert read_all(folder) == decisions
        assert log.num_dropped == 0


@pytest.mark.parametrize("dies_in_write", ["yes", "no"])
def test_a_killed_process_leaves_complete_lines_except_the_last(
    tmp_path: Path, dies_in_write: str, numbered_decision: MakeDecision, wait_for: WaitFor
) -> None:
    line = numbered_decision(response="x" * 100_000).to_json()
    line = line.replace('"What is 2 + 3?"', '"' + "y" * 20_000 + '"')
    arguments = [sys.executable, str(WRITER), str(tmp_path), line, dies_in_write]
    process = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        if dies_in_write == "no":
            wait_for(lambda: len(list(tmp_path.glob("*.jsonl"))) >= 3)
            process.send_signal(signal.SIGKILL)
        assert process.wait(WAIT_S) == -signal.SIGKILL
    finally:
        process.kill()
    torn: list[str] = []
    files = sorted(tmp_path.glob("*.jsonl"))
    found = [d.decision.request_id for f in files for d in read_log(f, on_torn=torn.append)]
    assert found == [f"r{n}" for n in range(len(found))]
    assert all(place.startswith(str(files[-1])) for place in torn)
    if dies_in_write == "yes":
        assert (len(found), len(torn)) == (60, 1)
    else:
        assert len(found) > 60
