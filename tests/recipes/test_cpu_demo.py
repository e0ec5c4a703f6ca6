"""The training demo: one short run of it, its processes, and its statistics."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import recipes.cpu_demo.__main__ as command
from recipes.cpu_demo.__main__ import _run_all
from recipes.cpu_demo.arms import ARMS, BASELINE, COMBINED
from recipes.cpu_demo.curves import smooth
from recipes.cpu_demo.plan import (
    FULL,
    OPENRLHF_FULL,
    OPENRLHF_QUICK,
    QUICK,
    Settings,
    plan_runs,
    start_model_path,
)
from recipes.cpu_demo.results import Measurement, build_row, format_table, read_steps
from recipes.cpu_demo.verbose import add_remarks
from recipes.launch.settings import PROMPTS_PER_STEP
from recipes.training_run.processes import ProcessFailed, Stopped, run_program
from recipes.training_run.run import Run
from sar.models.problems import generate

# Enough steps for the server to load a checkpoint; there is one after each fifth step.
SHORT = Settings(
    num_steps=16,
    num_start_steps=2,
    prompts_per_step=2,
    rollouts_per_prompt=3,
    eval_problems=40,
    eval_samples=1,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished demo, shorter than --quick."""
    output = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "QUICK", SHORT)
        patch.setenv("REWARD_SERVER_SAR_WEIGHT", "7")  # not for the demo's servers
        assert command.main(["--quick", "--output", str(output)]) == 0
    return output


@pytest.mark.slow
def test_both_arms_are_trained_on_what_the_server_gives(finished: Path) -> None:
    for run in plan_runs(finished, quick=True):
        steps = read_steps(run)
        assert [step["step"] for step in steps] == list(range(1, 17))
        for step in steps:
            expected = step["correctness"] + run.arm.sar_weight * step["sar"]
            assert step["reward"] == pytest.approx(expected, abs=1e-4)
            assert step["template_mismatch"] == 0
            assert -1 <= step["sar"] <= 1
            # The tokenizer may split the text differently from the sampled tokens.
            assert step["response_tokens"] == pytest.approx(step["completions/mean_length"], abs=2)


@pytest.mark.slow
def test_the_server_follows_the_policy(finished: Path) -> None:
    for run in plan_runs(finished, quick=True):
        versions = [step["policy_version"] for step in read_steps(run)]
        assert versions[0] == 0
        assert versions[-1] >= 5
        kept = sorted(folder.name for folder in run.checkpoints.iterdir())
        assert kept == ["global_step10_hf", "global_step15_hf"]


@pytest.mark.slow
def test_arms_of_a_seed_begin_alike(finished: Path) -> None:
    """The first step has the same prompts and samples in both arms."""
    first = [read_steps(run)[0] for run in plan_runs(finished, quick=True)]
    assert first[0]["completions/mean_length"] == first[1]["completions/mean_length"]
    assert first[0]["reward"] != first[1]["reward"]


@pytest.mark.slow
def test_what_is_written(finished: Path) -> None:
    start, baseline, combined = json.loads((finished / "results.json").read_text())
    assert [one["seeds"] for one in (start, baseline, combined)] == [[], [0], [0]]
    assert baseline["accuracy_gain"] is None
    assert combined["tokens_gain"]["low"] <= combined["tokens_gain"]["high"]
    for one in (start, baseline, combined):
        assert 0.6 < one["accuracy"]["value"] < 1
        assert 25 < one["tokens"]["value"] < 60
    assert (finished / "table.md").read_text().count("\n") == 5
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_finished_runs_are_not_trained_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK", SHORT)
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/final/*")}
    assert before
    assert command.main(["--quick", "--output", str(finished)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.glob("*/final/*")}
    assert "| correctness + 0.2 SAR |" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_of_other_settings_are_not_mixed(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--output", str(finished)]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_run_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run fails at once; the other would take a minute."""
    ended = []

    def train(run: Run, settings: Settings, stop: threading.Event) -> None:
        seconds = "600" if run.arm is BASELINE else "0"
        code = f"import sys, time; time.sleep({seconds}); sys.exit(4)"
        tmp_path.joinpath(run.arm.name).mkdir()
        try:
            run_program("train", tmp_path / run.arm.name, stop, {}, "-c", code)
        except Stopped:
            ended.append(run.arm)
            raise

    monkeypatch.setattr(command, "train_and_evaluate", train)
    monkeypatch.setattr(command, "evaluate_start_model", lambda *_: None)
    runs = list(plan_runs(tmp_path, quick=True))
    started_s = time.monotonic()
    with pytest.raises(ProcessFailed, match=r"exit code 4: .*sar/train\.log"):
        _run_all(runs, SHORT, tmp_path, jobs=2)
    assert ended == [BASELINE]
    assert time.monotonic() - started_s < 90


@pytest.mark.slow
def test_a_training_that_cannot_start_names_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK", SHORT)
    model = start_model_path(tmp_path)
    model.mkdir(parents=True)  # a model without weights
    assert command.main(["--quick", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "python -m recipes.cpu_demo: " in error
    assert ".log" in error


def test_a_process_that_fails_is_named_by_its_log(tmp_path: Path) -> None:
    code = "print('so', flush=True); exit(3)"
    with pytest.raises(ProcessFailed, match=r"exit code 3: .*some\.log"):
        run_program("some", tmp_path, threading.Event(), {}, "-c", code)
    assert (tmp_path / "some.log").read_text() == "so\n"


def test_a_process_that_is_stopped_does_not_stay(tmp_path: Path) -> None:
    stop = threading.Event()
    log = tmp_path / "sleeper.log"

    def stop_once_it_runs() -> None:
        while not log.is_file() or not log.read_text().endswith("\n"):
            time.sleep(0.1)
        stop.set()

    threading.Thread(target=stop_once_it_runs, daemon=True).start()
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(Stopped):
        run_program("sleeper", tmp_path, stop, {}, "-c", code)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_all_arms_have_the_seeds_they_are_compared_on() -> None:
    runs = list(plan_runs(Path("out"), quick=False))
    seeds = {arm: [run.seed for run in runs if run.arm is arm] for arm in ARMS}
    assert seeds[BASELINE] == seeds[COMBINED] == [0, 1, 2]
    assert all(set(of_arm) <= set(seeds[BASELINE]) for of_arm in seeds.values())
    assert len({run.folder for run in runs}) == len(runs)
    quick = list(plan_runs(Path("out"), quick=True))
    assert [(run.arm, run.seed) for run in quick] == [(BASELINE, 0), (COMBINED, 0)]
    assert QUICK.num_steps < FULL.num_steps


def test_runs_of_openrlhf_have_whole_steps_of_its_recipe() -> None:
    for settings in (OPENRLHF_FULL, OPENRLHF_QUICK):
        assert settings.num_steps * settings.prompts_per_step % PROMPTS_PER_STEP == 0
        assert settings.program == "recipes.cpu_demo.train_openrlhf"
    assert OPENRLHF_FULL.num_steps >= 100
    runs = list(plan_runs(Path("out"), quick=False, trainer="openrlhf"))
    assert [(run.arm, run.seed) for run in runs] == [
        (BASELINE, 0), (COMBINED, 0), (BASELINE, 1), (COMBINED, 1)
    ]  # fmt: skip
    assert len(list(plan_runs(Path("out"), quick=True, trainer="openrlhf"))) == 2


def test_the_policy_that_pads_is_right_and_keeps_its_steps_together() -> None:
    rng = random.Random(0)
    for problem in islice(generate(5, held_out=False), 200):
        padded = add_remarks(problem, rng).padded
        steps, _, answer = problem.concise.rpartition(" Answer: ")
        before, after = padded.split(f" {steps} ")
        assert before.strip()
        assert after.endswith(f". Answer: {answer}")
        assert len(after) > len(f"Answer: {answer}") + 10
        assert "{" not in padded


def _measured(seed: int, seeds: tuple[int, ...], length: float, accuracy: float) -> Measurement:
    draw = np.random.default_rng(seed)
    shape = len(seeds), 80
    difficulty_P = np.random.default_rng(1).normal(0, 3, 80)
    tokens_SP = length + difficulty_P + draw.normal(0, 4, shape)
    problems = tuple(str(index) for index in range(80))
    return Measurement(problems, seeds, draw.binomial(4, accuracy, shape) / 4, tokens_SP)


ALL = (0, 1, 2)


def test_intervals_are_those_of_a_bootstrap_over_problems() -> None:
    baseline, other = _measured(2, ALL, 41, 0.85), _measured(3, ALL, 31, 0.9)
    found = build_row("other", other, baseline)
    draw = np.random.default_rng(9)
    lengths, gains, accuracies = [], [], []
    for _ in range(4000):
        drawn = draw.integers(0, 80, 80)
        length = other.tokens_SP[:, drawn].mean() / baseline.tokens_SP[:, drawn].mean()
        lengths.append(length - 1)
        accuracies.append(other.correct_SP[:, drawn].mean())
        gains.append(accuracies[-1] - baseline.correct_SP[:, drawn].mean())
    for estimate, resamples in (
        (found.tokens_gain, lengths),
        (found.accuracy_gain, gains),
        (found.accuracy, accuracies),
    ):
        assert estimate is not None
        width = np.quantile(resamples, 0.975) - np.quantile(resamples, 0.025)
        assert estimate.low == pytest.approx(np.quantile(resamples, 0.025), abs=0.12 * width)
        assert estimate.high == pytest.approx(np.quantile(resamples, 0.975), abs=0.12 * width)
    assert found.tokens_gain is not None
    assert found.tokens_gain.value == pytest.approx(
        other.tokens_SP.mean() / baseline.tokens_SP.mean() - 1
    )


def test_an_arm_is_compared_with_the_same_seeds_of_the_baseline() -> None:
    baseline, other = _measured(2, ALL, 41, 0.85), _measured(3, (2, 0), 31, 0.9)
    found = build_row("other", other, baseline)
    assert found.tokens_gain is not None
    assert found.tokens_gain.value == pytest.approx(
        other.tokens_SP.mean() / baseline.tokens_SP[[2, 0]].mean() - 1
    )


def test_what_cannot_be_compared_is_refused() -> None:
    baseline, other = _measured(2, (0, 1), 41, 0.85), _measured(3, ALL, 31, 0.9)
    with pytest.raises(ValueError, match="not in tuple"):
        build_row("other", other, baseline)
    with pytest.raises(ValueError, match="other problems"):
        build_row("other", other, replace(other, problems=other.problems[::-1]))


def test_an_arm_against_itself_gains_nothing() -> None:
    same = _measured(2, ALL, 41, 0.85)
    found = build_row("same", same, same)
    for gain in (found.tokens_gain, found.accuracy_gain):
        assert gain is not None
        assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_the_table_is_markdown() -> None:
    baseline, other = _measured(2, ALL, 41, 0.85), _measured(3, ALL, 31, 0.9)
    table = [build_row("a", baseline, None), build_row("b", other, baseline)]
    lines = format_table(table).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| a | 8")
    assert "| -2" in lines[3]


@pytest.mark.parametrize("length", [1, 7, 40])
def test_running_means(length: int) -> None:
    values = np.random.default_rng(0).normal(size=length)
    expected = [values[max(0, end - 15) : end].mean() for end in range(1, length + 1)]
    assert smooth(values.tolist()) == pytest.approx(expected)


def test_help_is_instant() -> None:
    modules = "import sys; import recipes.cpu_demo.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", modules], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "trl", "transformers", "scipy", "matplotlib"} & set(loaded)


def test_a_trainer_that_is_not_installed_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_missing_parts", lambda: ["vllm", "ray"])
    with pytest.raises(SystemExit) as end:
        command.main(["--trainer", "openrlhf", "--output", str(tmp_path / "output")])
    assert end.value.code == 2
    assert "needs vllm, ray: make train-demo TRAINER=openrlhf" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
