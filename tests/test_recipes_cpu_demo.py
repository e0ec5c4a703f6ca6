"""The training demo: whole, but short; its processes; its statistics against plain loops."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recipes.cpu_demo.__main__ as command
from recipes.cpu_demo.curves import smoothed
from recipes.cpu_demo.plan import ARMS, BASELINE, COMBINED, FULL, QUICK, Settings, planned_runs
from recipes.cpu_demo.processes import Failed, Stopped, _finish
from recipes.cpu_demo.results import Measured, _row, markdown, read_steps
from recipes.cpu_demo.verbose import with_remarks
from sar.models.problems import generate

# A checkpoint after five steps, and enough steps for the server to have taken it.
SHORT = Settings(num_steps=12, num_start_steps=2, eval_problems=40, eval_samples=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick run that is even shorter."""
    output = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "QUICK", SHORT)
        patch.setenv("REWARD_SERVER_SAR_WEIGHT", "7")  # not for the demo's servers
        assert command.main(["--quick", "--output", str(output)]) == 0
    return output


def test_both_arms_are_trained_on_what_the_server_gives(finished: Path) -> None:
    for run in planned_runs(finished, quick=True):
        steps = read_steps(run)
        assert [step["step"] for step in steps] == list(range(1, 13))
        for step in steps:
            expected = step["correctness"] + run.arm.sar_weight * step["sar"]
            assert step["reward"] == pytest.approx(expected, abs=1e-4)
            assert step["template_mismatch"] == 0
            assert -1 <= step["sar"] <= 1
            assert step["response_tokens"] == pytest.approx(step["completions/mean_length"])


def test_the_server_follows_the_policy(finished: Path) -> None:
    for run in planned_runs(finished, quick=True):
        versions = [step["policy_version"] for step in read_steps(run)]
        assert versions[0] == 0
        assert versions[-1] >= 5
        assert not list(run.checkpoints.glob("global_step1_hf"))


def test_arms_of_a_seed_begin_alike(finished: Path) -> None:
    """The same prompts and the same samples, before their rewards part them."""
    first = [read_steps(run)[0] for run in planned_runs(finished, quick=True)]
    assert first[0]["completions/mean_length"] == first[1]["completions/mean_length"]
    assert first[0]["reward"] != first[1]["reward"]


def test_what_is_written(finished: Path) -> None:
    start, baseline, combined = json.loads((finished / "results.json").read_text())
    assert [row["seeds"] for row in (start, baseline, combined)] == [[], [0], [0]]
    assert baseline["accuracy_gain"] is None
    assert combined["tokens_gain"]["low"] <= combined["tokens_gain"]["high"]
    for row in (start, baseline, combined):
        assert 0.6 < row["accuracy"]["value"] < 1
        assert 25 < row["tokens"]["value"] < 60
    assert (finished / "table.md").read_text().count("\n") == 5
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_trained_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK", SHORT)
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/final/*")}
    assert before
    assert command.main(["--quick", "--output", str(finished)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.glob("*/final/*")}
    assert "| correctness + 0.2 SAR |" in capsys.readouterr().out


def test_runs_of_other_settings_are_not_mixed(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--output", str(finished)]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_run_that_fails_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        command, "QUICK", Settings(num_steps=-5, num_start_steps=2)
    )  # TRL refuses it
    assert command.main(["--quick", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "exit code 1" in error
    assert "train.log" in error


def test_a_process_that_fails_is_named_by_its_log(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"exit code 3: .*some\.log"):
        _finish("some", tmp_path, threading.Event(), "-c", "print('so', flush=True); exit(3)")
    assert (tmp_path / "some.log").read_text() == "so\n"


def test_a_process_that_is_stopped_does_not_stay(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    started_s = time.monotonic()
    with pytest.raises(Stopped):
        _finish("sleeper", tmp_path, stop, "-c", code)
    assert time.monotonic() - started_s < 10
    pid = int((tmp_path / "sleeper.log").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_all_arms_have_the_seeds_they_are_compared_on() -> None:
    runs = list(planned_runs(Path("out"), quick=False))
    seeds = {arm: [run.seed for run in runs if run.arm is arm] for arm in ARMS}
    assert seeds[BASELINE] == seeds[COMBINED] == [0, 1, 2]
    assert all(set(of_arm) <= set(seeds[BASELINE]) for of_arm in seeds.values())
    assert len({run.folder for run in runs}) == len(runs)
    quick = list(planned_runs(Path("out"), quick=True))
    assert [(run.arm, run.seed) for run in quick] == [(BASELINE, 0), (COMBINED, 0)]
    assert QUICK.num_steps < FULL.num_steps


def test_the_policy_that_pads_is_right_and_keeps_its_steps_together() -> None:
    rng = random.Random(0)
    for problem in islice(generate(5, held_out=False), 200):
        padded = with_remarks(problem, rng).padded
        steps, _, answer = problem.concise.rpartition(" Answer: ")
        before, after = padded.split(f" {steps} ")
        assert before.strip()
        assert after.endswith(f". Answer: {answer}")
        assert len(after) > len(f"Answer: {answer}") + 10
        assert "{" not in padded


def _measured(seed: int, num_seeds: int, length: float, accuracy: float) -> Measured:
    draw = np.random.default_rng(seed)
    difficulty_P = np.random.default_rng(1).normal(0, 3, 80)
    tokens_SP = length + difficulty_P + draw.normal(0, 4, (num_seeds, 80))
    correct_SP = draw.binomial(4, accuracy, (num_seeds, 80)) / 4
    return Measured(correct_SP, tokens_SP + draw.normal(0, 1, (num_seeds, 1)))


def test_intervals_are_those_of_a_bootstrap_over_seeds_and_problems() -> None:
    baseline, other = _measured(2, 3, 41, 0.85), _measured(3, 3, 31, 0.9)
    row = _row("other", (0, 1, 2), other, baseline)
    draw = np.random.default_rng(9)
    lengths, gains, accuracies = [], [], []
    for _ in range(4000):
        seeds, problems = draw.integers(0, 3, 3), draw.integers(0, 80, 80)
        drawn = np.ix_(seeds, problems)
        lengths.append(other.tokens_SP[drawn].mean() / baseline.tokens_SP[drawn].mean() - 1)
        accuracies.append(other.correct_SP[drawn].mean())
        gains.append(accuracies[-1] - baseline.correct_SP[drawn].mean())
    for estimate, resamples in (
        (row.tokens_gain, lengths),
        (row.accuracy_gain, gains),
        (row.accuracy, accuracies),
    ):
        assert estimate is not None
        width = np.quantile(resamples, 0.975) - np.quantile(resamples, 0.025)
        assert estimate.low == pytest.approx(np.quantile(resamples, 0.025), abs=0.12 * width)
        assert estimate.high == pytest.approx(np.quantile(resamples, 0.975), abs=0.12 * width)
    assert row.tokens_gain is not None
    assert row.tokens_gain.value == pytest.approx(
        other.tokens_SP.mean() / baseline.tokens_SP.mean() - 1
    )


def test_fewer_seeds_are_compared_with_the_same_of_the_baseline() -> None:
    baseline, other = _measured(2, 3, 41, 0.85), _measured(3, 2, 31, 0.9)
    row = _row("other", (0, 1), other, baseline)
    assert row.tokens_gain is not None
    assert row.tokens_gain.value == pytest.approx(
        other.tokens_SP.mean() / baseline.tokens_SP[:2].mean() - 1
    )


def test_an_arm_against_itself_gains_nothing() -> None:
    same = _measured(2, 3, 41, 0.85)
    row = _row("same", (0, 1, 2), same, same)
    for gain in (row.tokens_gain, row.accuracy_gain):
        assert gain is not None
        assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_seeds_widen_the_interval() -> None:
    alike = _measured(2, 1, 41, 0.85)
    apart_SP = alike.tokens_SP + np.array([[-6.0], [0.0], [6.0]])
    alike_SP = np.repeat(alike.tokens_SP, 3, axis=0)
    correct_SP = np.repeat(alike.correct_SP, 3, axis=0)
    narrow, wide = (
        _row("", (0, 1, 2), Measured(correct_SP, tokens_SP), None).tokens
        for tokens_SP in (alike_SP, apart_SP)
    )
    assert _width(wide) > 3 * _width(narrow)


def _width(estimate: Any) -> float:
    return float(estimate.high - estimate.low)


def test_the_table_is_markdown() -> None:
    baseline, other = _measured(2, 3, 41, 0.85), _measured(3, 3, 31, 0.9)
    table = markdown([_row("a", (0, 1, 2), baseline, None), _row("b", (0, 1, 2), other, baseline)])
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| a | 8")
    assert "| -2" in lines[3]
    assert "%" in lines[3]


@pytest.mark.parametrize("length", [1, 7, 40])
def test_running_means(length: int) -> None:
    values = np.random.default_rng(0).normal(size=length)
    expected = [values[max(0, end - 15) : end].mean() for end in range(1, length + 1)]
    assert smoothed(values.tolist()) == pytest.approx(expected)


def test_help_is_instant() -> None:
    modules = "import sys; import recipes.cpu_demo.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", modules], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "trl", "transformers", "scipy", "matplotlib"} & set(loaded)
