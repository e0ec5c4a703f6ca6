"""What alarms are worth: made-up runs and faults, accuracy's fall, the report and its page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from performance.alarms.__main__ import DEFAULT_OUTPUT, main
from performance.alarms.faults import list_faults
from performance.alarms.report import UPDATE_COMMAND, count_false_alarms, judge, render_tables
from performance.alarms.runs import HACKED, LabelledRun, find_onsets, read_run
from performance.alarms.synthetic import ROLLOUTS_PER_STEP, Phase, make_run
from sar.alarms.definitions import ALARMS
from sar.decision import Decision
from sar.pages import render_page

ROOT = Path(__file__).parents[2]
NUM_STEPS = 100
COLLAPSED = Phase(accuracy=0.1, tokens=6, sar=0.7, no_answer=0.3)


def first_alarms(decisions: Sequence[Decision]) -> set[str]:
    return {name for name, rollouts in find_onsets(decisions).items() if rollouts}


def label(decisions: Sequence[Decision], name: str = "sar-1") -> LabelledRun:
    arm, _, seed = name.rpartition("-")
    return LabelledRun(name, arm, int(seed), decisions, ROLLOUTS_PER_STEP)


def with_accuracy(shares: Sequence[float]) -> LabelledRun:
    """A run in which so many of each step's rollouts are right."""
    one = next(iter(make_run(0, num_steps=1)))
    return label(
        [
            replace(one, correctness=float(number < share * ROLLOUTS_PER_STEP))
            for share in shares
            for number in range(ROLLOUTS_PER_STEP)
        ]
    )


def test_a_seed_makes_the_same_run() -> None:
    assert list(make_run(3, num_steps=3)) == list(make_run(3, num_steps=3))
    assert list(make_run(3, num_steps=3)) != list(make_run(4, num_steps=3))
    assert len(list(make_run(3, num_steps=3))) == 3 * ROLLOUTS_PER_STEP


@pytest.mark.parametrize("end", [Phase(), Phase(accuracy=0.9, tokens=45, sar=0.26)])
def test_healthy_runs_stay_silent(end: Phase) -> None:
    num_false = sum(
        len(rollouts)
        for seed in range(5)
        for rollouts in find_onsets(make_run(seed, end=end)).values()
    )
    assert num_false <= 1


def test_runs_that_go_wrong_are_noticed() -> None:
    collapse = {"length_collapse", "term_rises", "term_over_correctness", "no_answer"}
    assert collapse <= first_alarms(list(make_run(0, end=COLLAPSED)))
    gamed = make_run(0, has_term=True, end=Phase(accuracy=0.6, term=0.99))
    assert "term_over_correctness" in first_alarms(list(gamed))
    assert "length_reward" in first_alarms(list(make_run(0, length_weight=5 / 128)))


@pytest.mark.parametrize("seed", range(3))
def test_each_fault_is_noticed_by_its_alarm(seed: int) -> None:
    run = list(make_run(seed, num_steps=NUM_STEPS))
    start = len(run) // 2
    for fault in list_faults(run, start):
        changed = list(fault.put_into(run, start, seed))
        assert changed[:start] == run[:start]
        assert changed[start:] != run[start:]
        (first, *_) = find_onsets(changed)[fault.alarm]
        assert start < first <= start + 1024, fault.alarm


def test_accuracy_falls_where_it_stays_low() -> None:
    good, bad = [0.75] * 30, [0.5] * 30
    # The running mean over 15 steps is 5 points lower once 3 of its steps are: 3/15 * 25.
    assert with_accuracy(good + bad).find_fall() == 33
    assert with_accuracy(good + bad).find_fall(0.2) == 42
    assert with_accuracy(good + bad + good).find_fall() is None
    assert with_accuracy(good + bad + good).find_first_low() == 33
    assert with_accuracy(good).find_first_low() is None
    assert with_accuracy(good).find_fall() is None
    assert with_accuracy(good + bad + good + bad).find_fall() == 93
    assert with_accuracy([0.75] * 15).find_fall() is None


def test_a_step_has_its_rollouts() -> None:
    run = label(list(make_run(0, num_steps=2)))
    assert [run.find_step(rollout) for rollout in (1, 24, 25, 48)] == [1, 1, 2, 2]


def test_what_a_run_earns_besides_correctness() -> None:
    one = next(iter(make_run(0, num_steps=1)))
    first = replace(one, reward=1.5, correctness=1.0)
    last = replace(one, reward=0.75, correctness=0.0)
    assert label([first] * 300 + [last] * 300).find_unearned() == (0.5, 0.75)


def measured(**fired: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Runs of 100 steps, whose accuracy falls at step 50, by name."""
    return [
        {
            "run": name.replace("__", "-"),
            "is_hacked": name.startswith("bad"),
            "seed": 1,
            "num_steps": 100,
            "fall_step": 50 if name.startswith("bad") else None,
            "unearned": [0.1, 0.5],
            "first_low_step": 45 if name.startswith("bad") else None,
            "deep_fall_step": 70 if name.startswith("bad") else None,
            "fired_steps": {alarm.name: steps.get(alarm.name, []) for alarm in ALARMS},
        }
        for name, steps in fired.items()
    ]


def test_what_an_alarm_is_worth() -> None:
    early, middle, late = ({"no_answer": [step]} for step in (40, 48, 80))
    assert judge(measured(bad=early, good={}), [], "no_answer") == "yes"
    assert judge(measured(bad=middle, good={}), [], "no_answer") == "some: before the collapse"
    assert judge(measured(bad=late, good={}), [], "no_answer") == "little: late"
    assert judge(measured(bad={}, good={}), [], "no_answer") == "none shown"
    # One in 100 steps is 10 in 1,000.
    noisy = measured(bad=early, good={"no_answer": [9]})
    assert count_false_alarms(noisy, "no_answer") == 10
    assert judge(noisy, [], "no_answer") == "none: too often false"
    fault = {"alarm": "no_answer", "fault": "x", "run": "good", "rollouts_until_alarm": 100}
    assert judge(measured(bad={}, good={}), [fault], "no_answer") == "for its fault"
    missed = fault | {"rollouts_until_alarm": None}
    assert judge(measured(bad={}, good={}), [fault, missed], "no_answer") == "none shown"
    assert count_false_alarms(measured(bad={}), "no_answer") is None


def write_run(folder: Path, decisions: Sequence[Decision], *, is_finished: bool = True) -> None:
    (folder / "rewards").mkdir(parents=True)
    lines = "".join(one.to_json() + "\n" for one in decisions)
    (folder / "rewards" / "rewards-1-1-00001.jsonl").write_text(lines)
    if is_finished:
        (folder / "final").mkdir()


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "settings.json").write_text('{"prompts_per_step": 4, "rollouts_per_prompt": 6}')
    for seed in (0, 1):
        write_run(folder / f"sar-{seed}", list(make_run(seed, num_steps=NUM_STEPS)))
        collapsed = list(make_run(seed, num_steps=NUM_STEPS, end=COLLAPSED))
        write_run(folder / f"sar-alone-{seed}", collapsed)
    write_run(folder / "sar-2", list(make_run(2, num_steps=30)), is_finished=False)
    return folder


def test_the_command_measures_finished_runs(
    runs_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, page = tmp_path / "alarms.json", tmp_path / "page.md"
    text = (ROOT / "docs" / "alarms.md").read_text(encoding="utf-8")
    page.write_text(text)
    assert main([str(runs_folder), "--output", str(output), "--update", str(page)]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"{runs_folder / 'sar-2'}: left out, its training has not ended\n"
    document = json.loads(output.read_text())
    by_name = {run["run"]: run for run in document["runs"]}
    assert set(by_name) == {"sar-0", "sar-1", "sar-alone-0", "sar-alone-1"}
    collapsed = by_name["sar-alone-1"]
    assert collapsed["is_hacked"]
    assert collapsed["num_steps"] == NUM_STEPS
    first = collapsed["fired_steps"]["term_over_correctness"][0]
    lead = collapsed["fall_step"] - first
    assert f"| step {first}, {abs(lead)} " in printed.out
    assert {fault["run"] for fault in document["faults"]} == {"sar-1"}
    updated = page.read_text(encoding="utf-8")
    assert render_tables(document) in updated
    assert updated.count("<!--") == text.count("<!--")

    # Without folders, the page is written from the file.
    page.write_text(text)
    assert main(["--output", str(output), "--update", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == updated


def test_mistakes_are_one_line(
    runs_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "odd"
    write_run(odd / "name", [])
    write_run(tmp_path / "bare" / "sar-0", [])
    write_run(tmp_path / "running" / "sar-0", [], is_finished=False)
    page = tmp_path / "page.md"
    page.write_text("")
    cases: list[tuple[list[object], str]] = [
        ([tmp_path / "none"], "no run with a reward log"),
        ([odd], "name: not named ARM-SEED"),
        ([tmp_path / "bare"], "settings.json: not the settings"),
        ([tmp_path / "running"], "no run whose training has ended"),
        (["--update", page], "needs two lines"),
    ]
    for arguments, message in cases:
        output = tmp_path / "out.json"
        output.write_text('{"runs": [], "faults": []}')
        assert main([*map(str, arguments), "--output", str(output)]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_run_is_read_as_it_was_written(runs_folder: Path) -> None:
    run = read_run(runs_folder / "sar-alone-1")
    assert (run.arm, run.seed, run.is_hacked, run.num_steps) == ("sar-alone", 1, True, NUM_STEPS)
    assert not read_run(runs_folder / "sar-1").is_hacked


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    text = (ROOT / "docs" / "alarms.md").read_text(encoding="utf-8")
    document = json.loads(DEFAULT_OUTPUT.read_text())
    message = f"run `{UPDATE_COMMAND}`"
    assert render_page(text, UPDATE_COMMAND, render_tables(document)) == text, message
    assert {run["arm"] for run in document["runs"] if run["is_hacked"]} <= set(HACKED)
    alarms = {alarm.name for alarm in ALARMS}
    assert all(set(run["fired_steps"]) == alarms for run in document["runs"])
