"""`make train-demo TRAINER=openrlhf`: one run of it, with four steps."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from eval.records import iter_records, records_path
from recipes.cpu_demo.arms import COMBINED
from recipes.cpu_demo.curves import draw_curves
from recipes.cpu_demo.plan import Settings
from recipes.cpu_demo.processes import train_and_evaluate
from recipes.cpu_demo.results import build_row, measure, read_steps
from recipes.training_run.run import Run

SHORT = Settings(
    num_steps=4,
    prompts_per_step=32,
    rollouts_per_prompt=2,
    max_response_tokens=64,
    save_every_steps=2,
    eval_problems=20,
    eval_samples=1,
    trainer="openrlhf",
)


def test_one_run_of_the_demo(tmp_path: Path, bundled_model_path: Path) -> None:
    run = Run(COMBINED, 0, tmp_path / "sar-0", bundled_model_path)
    train_and_evaluate(run, SHORT, threading.Event())

    steps = read_steps(run)
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    for step in steps:
        assert step["reward"] == pytest.approx(step["correctness"] + 0.2 * step["sar"], abs=1e-4)
        assert step["rollout/num_samples"] == 64
        assert step["template_mismatch"] == 0
        assert step["response_tokens"] == pytest.approx(step["completions/mean_length"], abs=2)
    assert steps[0]["policy_version"] == 0
    assert "policy version 4 from" in (run.folder / "server.log").read_text()
    draw_curves([run], tmp_path / "curves.png")
    records = list(iter_records(records_path(run.evaluation, "demo")))
    assert len(records) == SHORT.eval_problems
    accuracy = build_row("sar", measure([run.evaluation], (0,)), None).accuracy.value
    assert accuracy is not None
    assert 0.3 < accuracy <= 1
