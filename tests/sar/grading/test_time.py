"""What a verdict may take: CPU time and not wall time, slices, the slow lane, marks that expire."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sar.grading.label import parse_label
from sar.grading.processes import pool as pool_module
from sar.grading.processes import process as process_module
from sar.grading.processes.marks import ExpiringMarks
from sar.grading.processes.pool import GraderPool
from sar.grading.processes.process import ProcessStalled
from sar.grading.verdict import Reason, Verdict

MakePool = Callable[[int, float], GraderPool]
LABEL = parse_label("5")
NUM_CASES = 500
TIMEOUT_S = 0.8


def _slow_cases() -> list[tuple[str, Reason]]:
    """Responses of known cost and verdict; some need the slow lane, some more than the timeout."""
    cases = []
    for index in range(NUM_CASES):
        answer, reason = (5, Reason.CORRECT) if index % 2 else (6, Reason.WRONG)
        cost_s = 0.005 + 0.02 * (index % 7) / 7
        if index % 100 == 11:
            cost_s = 0.45
        if index % 250 == 12:
            cost_s, reason = 1000.0, Reason.TIMEOUT
        cases.append((f"use {cost_s}|{index}|{answer}", reason))
    return cases


@contextmanager
def _all_cores_busy() -> Iterator[None]:
    command = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
        assert [burner.poll() for burner in burners] == [None] * len(burners)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@pytest.mark.slow
def test_500_slow_cases_get_the_same_verdicts_on_idle_and_on_busy_cores(
    stand_in_pool: MakePool,
) -> None:
    cases = _slow_cases()
    wanted = [reason for _, reason in cases]

    def grade_all() -> list[Verdict]:
        pool = stand_in_pool(2, TIMEOUT_S)
        pending = [pool.submit(response, LABEL) for response, _ in cases]
        return [p.result() for p in pending]

    idle = grade_all()
    assert [verdict.reason for verdict in idle] == wanted
    with _all_cores_busy():
        busy = grade_all()
    assert busy == idle


def test_a_text_is_judged_by_cpu_time_and_not_by_wall_time(stand_in_pool: MakePool) -> None:
    pool = stand_in_pool(1, TIMEOUT_S)
    assert pool.grade(f"sleep {2 * TIMEOUT_S}|5", LABEL).reason is Reason.CORRECT
    assert pool.grade(f"use {2 * TIMEOUT_S}|5", LABEL).reason is Reason.TIMEOUT


def test_a_process_without_cpu_time_is_tried_again_and_then_an_error(
    stand_in_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_MIN_WALL_LIMIT_S", 0.3)
    monkeypatch.setattr(process_module, "_MIN_CPU_SHARE", 1e9)
    pool = stand_in_pool(1, TIMEOUT_S)
    with pytest.raises(ProcessStalled):
        pool.grade("sleep 60|5", LABEL)
    assert pool.num_restarts == 2
    assert pool.grade("use 0.01|5", LABEL).reason is Reason.CORRECT


@pytest.mark.slow
def test_what_needs_more_than_a_slice_is_right_all_the_same(stand_in_pool: MakePool) -> None:
    pool = stand_in_pool(1, 3.0)
    for cost_s in (0.01, 0.1, 0.5, 1.5):
        assert pool.grade(f"use {cost_s}|5", LABEL).reason is Reason.CORRECT, cost_s


@pytest.mark.parametrize("num_workers", [1, 2])
def test_hanging_texts_leave_a_process_for_the_others(
    stand_in_pool: MakePool, num_workers: int
) -> None:
    pool = stand_in_pool(num_workers, 60.0)
    bombs = [pool.submit(f"use 1000|{index}", LABEL) for index in range(10)]
    behind = [pool.submit(f"use 0.001|{index}|5", LABEL) for index in range(20)]
    assert [b.result().reason for b in behind] == [Reason.CORRECT] * 20
    assert not any(b.done() for b in bombs)


def test_in_the_slow_lane_texts_that_used_less_come_first(stand_in_pool: MakePool) -> None:
    pool = stand_in_pool(1, 60.0)
    bombs = [pool.submit(f"use 1000|{index}", LABEL) for index in range(3)]
    slow = pool.submit("use 0.6|5", LABEL)
    assert slow.result().reason is Reason.CORRECT
    assert not any(b.done() for b in bombs)


def test_a_cancelled_text_leaves_the_slow_lane(stand_in_pool: MakePool) -> None:
    pool = stand_in_pool(1, 3.0)
    bombs = [pool.submit(f"use 1000|{index}", LABEL) for index in range(50)]
    slow = pool.submit("use 0.5|5", LABEL)
    time.sleep(0.5)
    assert all(bomb.cancel() for bomb in bombs)
    assert slow.result(20).reason is Reason.CORRECT


@pytest.mark.slow
def test_a_text_that_used_its_whole_time_is_remembered_for_a_while(
    stand_in_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_MARK_LIFETIME_S", 5.0)
    pool = stand_in_pool(1, TIMEOUT_S)
    assert pool.grade("use 1000", LABEL).reason is Reason.TIMEOUT
    num_restarts = pool.num_restarts
    assert pool.grade("use 1000", LABEL).reason is Reason.TIMEOUT
    assert pool.num_restarts == num_restarts
    time.sleep(5.0)
    assert pool.grade("use 1000", LABEL).reason is Reason.TIMEOUT
    assert pool.num_restarts > num_restarts


def test_a_label_is_marked_only_if_it_uses_the_whole_time(stand_in_pool: MakePool) -> None:
    pool = stand_in_pool(1, TIMEOUT_S)
    for answer, marked in (("a bomb", True), ("a killer", False)):
        label = parse_label(answer, "math")
        verdict = pool.grade(f"label|{answer}", label)
        assert (verdict.reason, verdict.label_unreadable) == (Reason.CORRECT, True)
        num_restarts = pool.num_restarts
        assert pool.grade(f"label|again|{answer}", label).reason is Reason.CORRECT
        assert (pool.num_restarts == num_restarts) == marked


def test_a_text_whose_graders_are_killed_is_not_marked(stand_in_pool: MakePool) -> None:
    pool = stand_in_pool(1, TIMEOUT_S)
    assert pool.grade("die", LABEL).reason is Reason.CRASHED
    num_restarts = pool.num_restarts
    assert pool.grade("die", LABEL).reason is Reason.CRASHED
    assert pool.num_restarts >= num_restarts + 3


def test_marks_expire_and_the_oldest_make_room() -> None:
    marks: ExpiringMarks[int] = ExpiringMarks(lifetime_s=0.2, max_marks=2)
    for value in range(3):
        marks.set(f"text {value}", value)
    assert [marks.get(f"text {value}") for value in range(3)] == [None, 1, 2]
    time.sleep(0.2)
    assert [marks.get(f"text {value}") for value in range(3)] == [None, None, None]
