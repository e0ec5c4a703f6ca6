"""`make train-demo ARMS=...`: reward files, plan, one short run, picture."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from eval.statistics.metrics import Estimate
from recipes.cpu_demo.arms import (
    ALL_ARMS,
    ARMS,
    COMPOSED_ARMS,
    HACKED_ARMS,
    SAR_ALONE,
    find_arm,
)
from recipes.cpu_demo.curves import draw_curves, draw_tradeoff
from recipes.cpu_demo.plan import (
    FULL,
    OPENRLHF_FULL,
    QUICK,
    Settings,
    list_arm_flags,
    parse_run,
    plan_runs,
)
from recipes.cpu_demo.processes import train_and_evaluate
from recipes.cpu_demo.results import Row, read_steps
from recipes.cpu_demo.train_openrlhf import _make_recipe_settings
from recipes.training_run.run import Arm, Run, arm_from_file
from sar.models import BUNDLED_MODEL
from sar.terms.reward_file import read_reward_file

FORMULAS = {
    "o1_pruner": "correctness + 0.2 o1_pruner, in groups of 6",
    "efficient": "correctness + 0.2 efficient, in groups of 6",
    "entropy": "correctness + 0.2 entropy",
    "sar_overlong": "GDPO(correctness + 0.2 sar + 0.2 overlong), in groups of 6",
    "show_work": "correctness + equations_2 + equations_3 + equations_4",
    "length_hack": "correctness + 5 overlong",
}


@pytest.mark.parametrize("arm", COMPOSED_ARMS + HACKED_ARMS, ids=lambda arm: arm.name)
def test_reward_files(arm: Arm) -> None:
    assert arm.reward_file is not None
    composition = read_reward_file(arm.reward_file)
    assert composition.formula == FORMULAS[arm.name]
    assert arm.is_gdpo == (composition.normalize == "gdpo")
    assert arm.server_flags == ("--reward", str(arm.reward_file))
    for settings in (FULL, QUICK, OPENRLHF_FULL):
        assert composition.group_size in (None, settings.rollouts_per_prompt)
        for one in composition.terms:
            if one.name == "overlong" and arm in COMPOSED_ARMS:
                assert vars(one.term)["max_tokens"] == settings.max_response_tokens


def test_every_file_is_an_arm() -> None:
    folder = Path(__file__).parents[2] / "recipes" / "cpu_demo" / "rewards"
    assert {file.stem for file in folder.iterdir()} == {
        arm.name for arm in COMPOSED_ARMS + HACKED_ARMS
    }
    assert [arm.server_flags for arm in ARMS] == [
        ("--sar-weight", "0"), ("--sar-weight", "0.2"), ("--sar-weight", "0.2")
    ]  # fmt: skip
    assert [find_arm(arm.name) for arm in ALL_ARMS] == list(ALL_ARMS)


def test_an_arm_of_its_own_is_trained_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[[terms]]\nterm = "correctness"\n')
    arm = arm_from_file(file, "my reward")
    run = Run(arm, 3, tmp_path / "run", BUNDLED_MODEL)
    flags = ("--model", str(run.start_model), "--url", "http://h", "--output", str(run.folder))
    parsed, settings, url = parse_run(
        "train", FULL, [*list_arm_flags(run.arm), "--seed", "3", *flags]
    )
    assert (parsed.arm.name, parsed.arm.server_flags) == ("mine", ("--reward", str(file)))
    assert not parsed.arm.is_gdpo
    assert (parsed.seed, parsed.folder, settings, url) == (3, run.folder, FULL, "http://h")
    for known in ALL_ARMS:
        run = Run(known, 0, tmp_path / "run", BUNDLED_MODEL)
        parsed, _, _ = parse_run("train", FULL, [*list_arm_flags(run.arm), "--seed", "0", *flags])
        assert parsed.arm is known


@pytest.mark.parametrize("extra", [COMPOSED_ARMS, HACKED_ARMS])
def test_extra_arms_come_beside_the_others(extra: tuple[Arm, ...]) -> None:
    output = Path("out")
    plain = list(plan_runs(output, quick=False))
    runs = list(plan_runs(output, quick=False, extra=extra))
    assert [run for run in runs if run.arm in ARMS] == [run for run in plain if run.seed < 2]
    for arm in ARMS + extra:
        assert [run.seed for run in runs if run.arm is arm] == [0, 1]
    assert len({run.folder for run in runs}) == len(runs)
    quick = list(plan_runs(output, quick=True, extra=extra))
    assert {run.arm for run in quick} == set(ARMS + extra) - {SAR_ALONE}
    assert {run.seed for run in quick} == {0}
    openrlhf = list(plan_runs(output, quick=False, trainer="openrlhf", extra=extra))
    assert len(openrlhf) == 4 + 2 * len(extra)


def test_openrlhf_gets_the_file_or_the_weight(tmp_path: Path) -> None:
    given = {
        arm: _make_recipe_settings(Run(arm, 0, tmp_path, tmp_path), OPENRLHF_FULL, "http://h")
        for arm in ALL_ARMS
    }
    for arm, environ in given.items():
        assert ("REWARD" in environ) == (arm not in ARMS)
        assert ("SAR_WEIGHT" in environ) == (arm in ARMS)
        assert environ.get("REWARD", str(arm.reward_file)) == str(arm.reward_file)


@pytest.mark.slow
def test_one_run_under_gdpo(tmp_path: Path) -> None:
    """TRL trains on what the server makes of whole groups."""
    short = Settings(
        num_steps=3, prompts_per_step=2, save_every_steps=2, eval_problems=10, eval_samples=1
    )
    run = Run(find_arm("sar_overlong"), 0, tmp_path / "run", BUNDLED_MODEL)
    train_and_evaluate(run, short, threading.Event())
    steps = read_steps(run)
    assert len(steps) == 3
    assert _count_lines(run.rewards) == 3 * 2 * short.rollouts_per_prompt
    for step in steps:
        assert step["reward"] == pytest.approx(0, abs=1e-5)  # the mean of normalised groups
        assert step["cohort_incomplete"] == 0
        assert step["term_correctness"] == pytest.approx(step["correctness"], abs=1e-6)
        assert step["term_sar"] == pytest.approx(step["sar"], abs=1e-6)
        assert -1 <= step["term_overlong"] <= 0
    assert any(abs(step["loss"]) > 0 for step in steps)
    draw_curves([run], tmp_path / "curves.png")


def _count_lines(folder: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in folder.iterdir())


def _make_row(title: str, accuracy: float, tokens: float) -> Row:
    def estimate(value: float, width: float) -> Estimate:
        return Estimate(value, value - width, value + width)

    return Row(
        title, (0, 1), estimate(accuracy, 0.03), estimate(tokens, 4.0),
        (accuracy - 0.01, accuracy + 0.01), (tokens - 2, tokens + 2), None, None,
    )  # fmt: skip


def test_the_picture_shows_every_row_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    seen: dict[str, tuple[float, float]] = {}
    errorbar = Axes.errorbar

    def spy(self: Axes, x: float, y: float, **options: Any) -> Any:
        seen[options["label"]] = (x, y)
        return errorbar(self, x, y, **options)

    monkeypatch.setattr(Axes, "errorbar", spy)
    table = [_make_row("nothing yet", 0.85, 62.0)]
    table += [
        _make_row(arm.title, 0.8 + n / 100, 50.0 - n) for n, arm in enumerate(ARMS + COMPOSED_ARMS)
    ]
    draw_tradeoff(table, tmp_path / "tradeoff.png")
    assert (tmp_path / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert list(seen) == [row.title for row in table]
    assert seen["nothing yet"] == (62.0, 85.0)
    for n, arm in enumerate(ARMS + COMPOSED_ARMS):
        assert list(seen[arm.title]) == pytest.approx([50.0 - n, 80.0 + n])
