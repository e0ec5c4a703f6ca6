"""The benchmark on a real model: it runs from end to end, here on a tiny one, and compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from performance import __main__ as command
from performance import smollm2, workload
from performance.report import Measurement
from performance.workload import ModelShape, Scored


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shape = ModelShape(vocabulary=300, hidden=64, intermediate=96, num_layers=2, head_dim=32)
    workload.build_model(shape).save_pretrained(tmp_path)
    monkeypatch.setattr(smollm2, "FOLDER", tmp_path)
    # vLLM takes minutes to start, and needs a tokenizer.
    monkeypatch.setattr(smollm2, "_has_vllm", lambda: False)
    return tmp_path


@pytest.mark.slow
def test_both_dtypes_are_measured(folder: Path) -> None:
    measured = smollm2.measure(quick=True)
    assert [m.name for m in measured] == [
        f"SmolLM2, {dtype}: scorer against {what}"
        for dtype in ("float32", "bfloat16")
        for what in ("the naive loop", "the matmul floor")
    ]
    for m in measured:
        times = m.details["times_s"]
        other = times["naive" if "naive" in m.name else "floor"]
        assert list(m.samples) == [a / b for a, b in zip(other, times["scorer"], strict=True)]
        assert m.details["path"] == "packed"


def test_a_contender_that_disagrees_stops_the_run() -> None:
    right = Scored(1.0, [np.full(4, -2.0, np.float32), np.full(9, -1.0, np.float32)])
    wrong = Scored(1.0, [right.logprobs[0], right.logprobs[1] + np.float32(0.01)])
    smollm2._check_same({"scorer": right, "naive": right}, "float32")
    smollm2._check_same({"scorer": right, "naive": wrong}, "bfloat16")
    for dtype, size in (("float32", 0.01), ("bfloat16", 0.2)):
        wrong = Scored(1.0, [right.logprobs[0], right.logprobs[1] + np.float32(size)])
        with pytest.raises(RuntimeError, match=f"{dtype}: scorer and vllm differ"):
            smollm2._check_same({"scorer": right, "vllm": wrong}, dtype)


def test_without_the_model_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "FOLDER", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="make smollm2"):
        smollm2.measure(quick=True)


def test_it_runs_only_if_it_is_named_and_has_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    one = Measurement("one", [1.0], "x")
    monkeypatch.setattr(smollm2, "measure", lambda _quick: [one])
    assert "smollm2" not in command.PARTS
    assert command.main(["--only", "smollm2"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["smollm2.json"]
