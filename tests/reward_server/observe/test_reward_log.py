"""What the reward log writes: in which files, how fast, and who can read them."""

from __future__ import annotations

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reward_server.observe.reward_log import RewardLog

if TYPE_CHECKING:
    from tests.reward_server.observe.conftest import MakeDecision, ReadAll, WaitFor


def test_what_is_recorded_is_read_back_in_order(
    tmp_path: Path, numbered_decision: MakeDecision, read_all: ReadAll
) -> None:
    log = RewardLog(tmp_path / "made" / "here")
    decisions = [
        numbered_decision(n, f"line one\nline\u2028 two \0 № {n} 你好 🙂") for n in range(500)
    ]
    for start in range(0, 500, 50):
        log.record(decisions[start : start + 50])
    log.close()
    assert read_all(tmp_path / "made" / "here") == decisions
    assert (log.num_dropped, log.num_queued) == (0, 0)


def test_many_threads_record_at_once(
    tmp_path: Path, numbered_decision: MakeDecision, read_all: ReadAll
) -> None:
    log = RewardLog(tmp_path, max_file_bytes=50_000)
    with ThreadPoolExecutor(8) as senders:
        list(senders.map(lambda n: log.record([numbered_decision(n)]), range(800)))
    log.close()
    assert sorted(d.request_id for d in read_all(tmp_path)) == sorted(f"r{n}" for n in range(800))


def test_what_was_recorded_is_in_the_file_before_the_close(
    tmp_path: Path, numbered_decision: MakeDecision, read_all: ReadAll, wait_for: WaitFor
) -> None:
    log = RewardLog(tmp_path)
    one = numbered_decision()
    log.record([one])
    wait_for(lambda: not log.num_queued)
    assert read_all(tmp_path) == [one]
    log.close()


def test_files_rotate_by_size_and_old_runs_stay(
    tmp_path: Path, numbered_decision: MakeDecision, read_all: ReadAll
) -> None:
    old = tmp_path / "rewards-20200101T000000Z-1-00001.jsonl"
    old.write_text(numbered_decision(999).to_json() + "\n")
    line_bytes = len(numbered_decision().to_json()) + 1
    log = RewardLog(tmp_path, max_file_bytes=10 * line_bytes + 50)
    log.record([numbered_decision(n % 10) for n in range(95)])
    log.record([numbered_decision(1, "x" * 20 * line_bytes)])  # longer than a file may be
    log.record([numbered_decision(2)])
    log.close()
    files = sorted(tmp_path.glob("*.jsonl"))
    assert files[0] == old
    assert [len(f.read_text().splitlines()) for f in files[1:]] == [10] * 9 + [5, 1, 1]
    assert len(read_all(tmp_path)) == 98
    for number, file in enumerate(files[1:], 1):
        assert file.name.startswith("rewards-2")
        assert file.name.endswith(f"Z-{os.getpid()}-{number:05d}.jsonl")


def test_two_logs_of_one_process_do_not_share_a_file(
    tmp_path: Path, numbered_decision: MakeDecision, read_all: ReadAll
) -> None:
    """Like servers in several containers that share a folder: each of them is process 1."""
    logs = [RewardLog(tmp_path) for _ in range(3)]
    for number, log in enumerate(logs):
        log.record([numbered_decision(number)])
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


def test_recording_is_fast(
    tmp_path: Path, numbered_decision: MakeDecision, read_all: ReadAll
) -> None:
    """Queueing a thousand responses of 16 kB takes much less time than writing them."""
    log = RewardLog(tmp_path)
    decisions = [numbered_decision(n, "x" * 16_000) for n in range(1000)]
    start = time.perf_counter()
    for one in decisions:
        log.record([one])
    took_s = time.perf_counter() - start
    log.close()
    written_s = time.perf_counter() - start
    assert len(read_all(tmp_path)) == 1000
    print(f"record: {took_s * 1000:.1f} us each")
    assert took_s < written_s / 2


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_only_this_user_can_read_the_log(
    tmp_path: Path, umask: int, numbered_decision: MakeDecision
) -> None:
    folder = tmp_path / "log"
    before = os.umask(umask)
    try:
        log = RewardLog(folder, max_file_bytes=1)
        log.record([numbered_decision(n) for n in range(3)])
        log.close()
    finally:
        os.umask(before)
    files = list(folder.iterdir())
    assert len(files) == 3
    assert {mode_of(file) for file in files} == {0o600}
    assert mode_of(folder) == 0o700


def test_a_folder_that_others_can_read_keeps_its_mode_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, numbered_decision: MakeDecision
) -> None:
    tmp_path.chmod(0o755)
    log = RewardLog(tmp_path)
    log.record([numbered_decision()])
    log.close()
    assert mode_of(tmp_path) == 0o755
    assert [mode_of(file) for file in tmp_path.iterdir()] == [0o600]
    assert f"--reward-log {tmp_path} is open to other users (mode 755)" in caplog.text
    caplog.clear()
    tmp_path.chmod(0o700)
    RewardLog(tmp_path).close()
    assert not caplog.records
