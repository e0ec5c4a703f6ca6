"""The grader pool with killed, stopped and hung processes, and with errors of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sar.grading.label import Label, parse_label
from sar.grading.processes import pool as pool_module
from sar.grading.processes import slot as slot_module
from sar.grading.processes.forkserver import ForkServer
from sar.grading.processes.pool import GraderPool
from sar.grading.processes.serving import WorkerFailed
from sar.grading.verdict import Reason

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 1.0
GRACE_S = 20.0  # for a busy machine
NUM_WORKERS = 2
MEGABYTE = 1_000_000

MATH = parse_label("5")
# Takes very long to evaluate, so it exceeds the time limit.
BOMB = r"So it is \boxed{\binom{99999999999}{49999999999}}."


@pytest.fixture(scope="module")
def graders() -> Iterator[GraderPool]:
    pool = GraderPool(NUM_WORKERS, TIMEOUT_S)
    for _ in range(2 * NUM_WORKERS):
        assert pool.grade("Answer: 5", MATH).reason is Reason.CORRECT
    yield pool
    pool.close()


@pytest.fixture
def new_pool(graders: GraderPool) -> Iterator[Callable[..., GraderPool]]:
    """Makes pools that a test may break. The shared pool has already started the fork server."""
    made: list[GraderPool] = []

    def make(timeout_s: float = TIMEOUT_S) -> GraderPool:
        made.append(GraderPool(NUM_WORKERS, timeout_s))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def _descendants(of: int | None = None) -> dict[int, str]:
    """Returns the states of the fork server's processes below a process (by default this one)."""
    parents: dict[int, tuple[int, str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue  # it has ended
        if after_name[0] == "Z" or "forkserver" in command:
            parents[int(stat.parent.name)] = (int(after_name[1]), after_name[0])

    def is_ours(pid: int) -> bool:
        parent = parents[pid][0]
        return parent == (of or os.getpid()) or (parent in parents and is_ours(parent))

    return {pid: state for pid, (_, state) in parents.items() if is_ours(pid)}


def _busy_pids(pids: set[int], within_s: float = 0.3) -> set[int]:
    """Returns the processes that use CPU time."""

    def used() -> dict[int, int]:
        return {pid: sum(map(int, _stat(pid)[11:13])) for pid in pids if _stat(pid)}

    before = used()
    time.sleep(within_s)
    return {pid for pid, ticks in used().items() if ticks > before.get(pid, ticks) + 5}


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_running(pid: int) -> bool:
    return bool(stat := _stat(pid)) and stat[0] != "Z"


def _kill(pids: set[int]) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_a_killed_idle_process_is_replaced(new_pool: Callable[..., GraderPool]) -> None:
    before = set(_descendants())
    pool = new_pool()
    for delay_s in (0.0, 0.01, 0.1, 0.3, 1.0):
        assert pool.grade("Answer: 5", MATH).reason is Reason.CORRECT
        _kill(set(_descendants()) - before)
        time.sleep(delay_s)
        assert pool.grade("Answer: 5", MATH).reason is Reason.CORRECT, delay_s
        assert pool.grade("Answer: 6", MATH).reason is Reason.WRONG, delay_s


def test_replacing_a_killed_idle_process_leaves_none_of_the_others_behind(
    new_pool: Callable[..., GraderPool],
) -> None:
    before = set(_descendants())
    pool = new_pool()
    for _ in range(3):
        assert pool.grade("Answer: 5", MATH).reason is Reason.CORRECT
        _kill({max(set(_descendants()) - before)})
        time.sleep(0.3)
    assert pool.grade("Answer: 5", MATH).reason is Reason.CORRECT
    _wait_until(lambda: len(set(_descendants()) - before) <= NUM_WORKERS)


def test_the_work_of_a_stopped_process_is_done_by_another(
    new_pool: Callable[..., GraderPool],
) -> None:
    """A stopped process does not read its socket, so a long text blocks the sender."""
    before = set(_descendants())
    pool = new_pool()
    _wait_until(lambda: len(set(_descendants()) - before) == NUM_WORKERS)
    time.sleep(0.5)  # until both are ready
    stopped = set(_descendants()) - before
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    pending = [pool.submit(" " * MEGABYTE + "Answer: 5", MATH) for _ in stopped]
    assert [p.result().reason for p in pending] == [Reason.CORRECT] * len(stopped)
    assert time.monotonic() - started < TIMEOUT_S + GRACE_S
    assert pool.grade("Answer: 5", MATH).reason is Reason.CORRECT
    assert pool.num_restarts == len(stopped)


def test_processes_that_do_not_start_are_an_error_and_no_verdict(
    new_pool: Callable[..., GraderPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_FORK_SERVER", ForkServer("sar.grading.no_such_module"))
    pool = new_pool()
    with pytest.raises(RuntimeError, match="before they were ready"):
        pool.grade("Answer: 5", MATH)


def test_hung_graders_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(f"""
from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
if __name__ == "__main__":
    pool = GraderPool(2, 600.0)
    print(pool.grade("Answer: 5", parse_label("5")).reason, flush=True)
    bombs = [pool.submit({BOMB!r}, parse_label("5")) for _ in range(2)]
    bombs[0].result()
""")
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    assert "CORRECT" in parent.stdout.readline().upper()
    try:
        # After a moment, the bombs are in processes of the slow lane, which start only then.
        _wait_until(lambda: bool(_busy_pids(set(_descendants(parent.pid)))))
        graders = set(_descendants(parent.pid))
    finally:
        parent.kill()
        parent.wait()
    _wait_until(lambda: not any(_is_running(pid) for pid in graders))


@pytest.mark.slow
def test_work_of_killed_busy_processes_is_done_again(
    stand_in_pool: Callable[[int, float], GraderPool],
) -> None:
    before = set(_descendants())
    pool = stand_in_pool(NUM_WORKERS, 30.0)
    pending = [pool.submit(f"use 0.8|{index}|{5 + index % 2}", MATH) for index in range(6)]
    busy: set[int] = set()
    while not busy and not all(p.done() for p in pending):
        busy = _busy_pids(set(_descendants()) - before)
    _kill(busy)
    verdicts = [p.result().reason for p in pending]
    assert verdicts == [Reason.CORRECT, Reason.WRONG] * 3
    assert not busy & {pid for pid, state in _descendants().items() if state != "Z"}


def test_a_graders_own_error_is_raised(graders: GraderPool) -> None:
    broken = Label(answer=5, grader="math")  # type: ignore[arg-type]  # like a bug of ours
    with pytest.raises(WorkerFailed, match=r"TypeError|AttributeError"):
        graders.grade("Answer: 5", broken)
    assert graders.grade("Answer: 5", MATH).reason is Reason.CORRECT


def test_processes_neither_grow_nor_stay_as_zombies(
    new_pool: Callable[..., GraderPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_module, "_MAX_CALLS", 20)
    before = set(_descendants())
    pool = new_pool()
    pending = [pool.submit(f"Answer: {5 + index % 2}", MATH) for index in range(200)]
    pending.insert(100, pool.submit(BOMB, MATH))
    reasons = [p.result().reason for p in pending]
    assert reasons.pop(100) is Reason.TIMEOUT
    assert reasons == [Reason.CORRECT, Reason.WRONG] * 100
    _wait_until(lambda: len(set(_descendants()) - before) <= NUM_WORKERS)
    _wait_until(lambda: "Z" not in _descendants().values())
    pool.close()
    _wait_until(lambda: not set(_descendants()) - before)


def test_many_threads_share_a_pool(graders: GraderPool) -> None:
    found: dict[int, Reason] = {}

    def work(index: int) -> None:
        found[index] = graders.grade(f"Answer: {index}", parse_label("7")).reason

    threads = [threading.Thread(target=work, args=(index,)) for index in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {i: Reason.CORRECT if i == 7 else Reason.WRONG for i in range(64)}


def test_closing_kills_hung_graders_and_raises_in_waiting_threads(
    new_pool: Callable[..., GraderPool],
) -> None:
    before = set(_descendants())
    pool = new_pool()
    assert pool.grade("Answer: 5", MATH).reason is Reason.CORRECT
    outcome: list[object] = []

    def wait_for_a_bomb() -> None:
        try:
            outcome.append(pool.grade(BOMB, MATH))
        except Exception as error:  # noqa: BLE001
            outcome.append(error)

    waiting = threading.Thread(target=wait_for_a_bomb, daemon=True)
    waiting.start()
    time.sleep(0.3)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < GRACE_S
    waiting.join(2 * TIMEOUT_S + GRACE_S)
    assert outcome, "the thread still waits"
    assert isinstance(outcome[0], Exception), f"a closed pool returned {outcome[0]}"
    _wait_until(lambda: not set(_descendants()) - before)


def _wait_until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
