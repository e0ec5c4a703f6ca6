"""The figures of what an evaluation costs beside its model come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from performance import evaluation


@pytest.mark.slow
def test_the_figures_come_out() -> None:
    graded, resumed, memory = evaluation.measure(quick=True)
    assert graded.name == "evaluation: 200 responses graded and recorded"
    assert 0 < graded.value < evaluation.MAX_GRADING_S
    assert 0 < resumed.value < 60
    small, large = memory.details["peak_bytes"]
    assert min(small, large) > 10 * 2**20


def test_every_response_is_graded_right(tmp_path: Path) -> None:
    """The backend answers each problem, and not some other."""
    evaluation._write_problems(tmp_path, 20)
    evaluation._run_in_this_process(tmp_path, 20)
    assert (tmp_path / "run-20" / "gsm8k.jsonl").read_text().count('"correct": true') == 20


@pytest.mark.slow
def test_the_peak_is_that_of_the_run_and_not_of_its_parent(tmp_path: Path) -> None:
    evaluation._write_problems(tmp_path, 20)
    held = bytearray(2**30)  # zeros, but resident: this process's peak is above a gibibyte
    held[:: 2**12] = b"1" * (2**30 // 2**12)
    peak_bytes = evaluation._measure_run(tmp_path, 20)["peak_bytes"]
    assert 10 * 2**20 < peak_bytes < len(held)
