"""The reward log with full disks, full queues, deleted files and a killed server."""

from __future__ import annotations

import errno
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reward_server.observe import reward_log
from reward_server.observe.reward_log import RewardLog
from sar.decision import Decision
from sar.grading.label import parse_label
from sar.grading.verdict import Reason, Verdict
from sar.rescore import read_log
from sar.reward import Likelihood, combine

ROOT = Path(__file__).parents[3]
WRITER = Path(__file__).parent / "reward_log_writer.py"
WAIT_S = 60.0


def decision(number: int = 0, response: str = "So it is 5.") -> Decision:
    likelihood = Likelihood(0.25, 0.5 + number / 1000, num_response_tokens=7, over_context=False)
    reward = combine(Verdict(Reason.CORRECT, "5"), likelihood, sar_weight=0.2, mode="train")
    return Decision.from_reward(
        reward,
        request_id=f"r{number}",
        prompt="What is 2 + 3?",
        response=response,
        special_tokens=(),
        label_as_sent="5",
        label=parse_label("5"),
        sar_weight=0.2,
        template_mismatch=False,
        model="demo",
        server_version="0.1.0",
    )


def read_all(folder: Path) -> list[Decision]:
    """All decisions of all files; fails on an incomplete line."""

    def torn(place: str) -> None:
        raise AssertionError(place)

    files = sorted(folder.glob("*.jsonl"))
    return [logged.decision for file in files for logged in read_log(file, on_torn=torn)]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


def test_what_is_recorded_is_read_back_in_order(tmp_path: Path) -> None:
    log = RewardLog(tmp_path / "made" / "here")
    decisions = [decision(n, f"line one\nline\u2028 two \0 № {n} 你好 🙂") for n in range(500)]
    for start in range(0, 500, 50):
        log.record(decisions[start : start + 50])
    log.close()
    assert read_all(tmp_path / "made" / "here") == decisions
    assert (log.num_dropped, log.num_queued) == (0, 0)


def test_many_threads_record_at_once(tmp_path: Path) -> None:
    log = RewardLog(tmp_path, max_file_bytes=50_000)
    with ThreadPoolExecutor(8) as senders:
        list(senders.map(lambda n: log.record([decision(n)]), range(800)))
    log.close()
    assert sorted(d.request_id for d in read_all(tmp_path)) == sorted(f"r{n}" for n in range(800))


def test_what_was_recorded_is_in_the_file_before_the_close(tmp_path: Path) -> None:
    log = RewardLog(tmp_path)
    one = decision()
    log.record([one])
    wait_for(lambda: not log.num_queued)
    assert read_all(tmp_path) == [one]
    log.close()


def test_files_rotate_by_size_and_old_runs_stay(tmp_path: Path) -> None:
    old = tmp_path / "rewards-20200101T000000Z-1-00001.jsonl"
    old.write_text(decision(999).to_json() + "\n")
    line_bytes = len(decision().to_json()) + 1
    log = RewardLog(tmp_path, max_file_bytes=10 * line_bytes + 50)
    log.record([decision(n % 10) for n in range(95)])
    log.record([decision(1, "x" * 20 * line_bytes)])  # longer than a file may be
    log.record([decision(2)])
    log.close()
    files = sorted(tmp_path.glob("*.jsonl"))
    assert files[0] == old
    assert [len(f.read_text().splitlines()) for f in files[1:]] == [10] * 9 + [5, 1, 1]
    assert len(read_all(tmp_path)) == 98
    for number, file in enumerate(files[1:], 1):
        assert file.name.startswith("rewards-2")
        assert file.name.endswith(f"Z-{os.getpid()}-{number:05d}.jsonl")


def test_two_logs_of_one_process_do_not_share_a_file(tmp_path: Path) -> None:
    """Like servers in several containers that share a folder: each of them is process 1."""
    logs = [RewardLog(tmp_path) for _ in range(3)]
    for number, log in enumerate(logs):
        log.record([decision(number)])
    for log in logs:
        log.close()
    assert sorted(d.request_id for d in read_all(tmp_path)) == ["r0", "r1", "r2"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_log_without_decisions_leaves_no_file(tmp_path: Path) -> None:
    RewardLog(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        RewardLog(tmp_path / "file")
    with pytest.raises(OSError, match="proc"):
        RewardLog(Path("/proc/nowhere"))


def test_a_full_disk_loses_nothing_once_there_is_room(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    log = RewardLog(tmp_path)
    log.record([decision(n) for n in range(10)])
    wait_for(lambda: not log.num_queued)
    disk.is_full = True
    log.record([decision(n) for n in range(10, 20)])
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
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RewardLog(tmp_path)
    log.record([decision(0)])
    wait_for(lambda: not log.num_queued)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        disk.is_full = True
        log.record([decision(1)])
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
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    size = reward_log._size_chars(decision())
    log = RewardLog(tmp_path, max_queued_chars=5 * size)
    disk.is_full = True
    start = time.monotonic()
    for number in range(100):
        log.record([decision(number)])
    assert time.monotonic() - start < WAIT_S / 2
    assert (log.num_queued, log.num_dropped) == (5, 95)
    disk.is_full = False
    wait_for(lambda: not log.num_queued)
    log.record([decision(200)])
    log.close()
    assert [d.request_id for d in read_all(tmp_path)] == ["r0", "r1", "r2", "r3", "r4", "r200"]
    assert len([r for r in caplog.records if "queue is full" in r.getMessage()]) == 1


def test_the_queue_is_bounded_by_the_size_of_its_texts(tmp_path: Path, disk: Disk) -> None:
    log = RewardLog(tmp_path, max_queued_chars=1_000_000)
    disk.is_full = True
    log.record([decision(n, "x" * 300_000) for n in range(10)])
    assert (log.num_queued, log.num_dropped) == (3, 7)
    disk.is_full = False
    log.close()
    assert len(read_all(tmp_path)) == 3


def test_close_on_a_full_disk_ends_in_time_and_counts_lost_decisions(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    log = RewardLog(tmp_path)
    disk.is_full = True
    log.record([decision(n) for n in range(7)])
    start = time.monotonic()
    log.close(timeout_s=0.3)
    assert time.monotonic() - start < WAIT_S / 2
    assert log.num_dropped == 7
    assert "could not be written" in caplog.text
    log.record([decision()])  # after the close: counted, and no error
    assert log.num_dropped == 8


def test_close_during_a_write_that_hangs_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    log.record([decision(n) for n in range(3)])
    start = time.monotonic()
    log.close(timeout_s=0.2)
    assert time.monotonic() - start < WAIT_S / 2
    assert log.num_dropped == 3
    goes_on.set()
    log._thread.join(WAIT_S)
    assert not log._thread.is_alive()


def test_a_deleted_file_is_followed_by_a_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log = RewardLog(folder)
    log.record([decision(0)])
    wait_for(lambda: not log.num_queued)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    log.record([decision(1)])
    log.close()
    assert [d.request_id for d in read_all(folder)] == ["r1"]


def test_a_decision_that_is_no_json_is_counted_and_the_log_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RewardLog(tmp_path)
    not_finite = replace(decision(), nll_qa=float("nan"))
    log.record([decision(0), not_finite, decision(1, "\ud800"), decision(2)])
    log.close()
    assert [d.request_id for d in read_all(tmp_path)] == ["r0", "r2"]
    assert log.num_dropped == 2
    assert "cannot be written as JSON" in caplog.text


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


def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_log, "_RETRY_S", 0.02)
    with tiny_disk(tmp_path / "disk") as folder:
        filler = folder / "filler"
        filler.write_bytes(b"x" * 180 * 1024)
        log = RewardLog(folder, max_file_bytes=30_000)
        decisions = [decision(n) for n in range(200)]  # 140 kB
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
    tmp_path: Path, dies_in_write: str
) -> None:
    line = decision(response="x" * 100_000).to_json()
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


def test_recording_is_fast(tmp_path: Path) -> None:
    """Queueing a thousand responses of 16 kB takes much less time than writing them."""
    log = RewardLog(tmp_path)
    decisions = [decision(n, "x" * 16_000) for n in range(1000)]
    start = time.perf_counter()
    for one in decisions:
        log.record([one])
    took_s = time.perf_counter() - start
    log.close()
    written_s = time.perf_counter() - start
    assert len(read_all(tmp_path)) == 1000
    print(f"record: {took_s * 1000:.1f} us each")
    assert took_s < written_s / 2


def test_no_message_holds_a_prompt_or_response(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    log = RewardLog(tmp_path, max_queued_chars=3000)
    disk.is_full = True
    log.record([decision(0, "SECRET"), decision(1, "SECRET")])
    log.close(timeout_s=0.1)
    assert caplog.records
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_only_this_user_can_read_the_log(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "log"
    before = os.umask(umask)
    try:
        log = RewardLog(folder, max_file_bytes=1)
        log.record([decision(n) for n in range(3)])
        log.close()
    finally:
        os.umask(before)
    files = list(folder.iterdir())
    assert len(files) == 3
    assert {mode_of(file) for file in files} == {0o600}
    assert mode_of(folder) == 0o700


def test_a_folder_that_others_can_read_keeps_its_mode_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o755)
    log = RewardLog(tmp_path)
    log.record([decision()])
    log.close()
    assert mode_of(tmp_path) == 0o755
    assert [mode_of(file) for file in tmp_path.iterdir()] == [0o600]
    assert f"--reward-log {tmp_path} is open to other users (mode 755)" in caplog.text
    caplog.clear()
    tmp_path.chmod(0o700)
    RewardLog(tmp_path).close()
    assert not caplog.records
