"""The search's loop: rounds, finalists, failures, resuming, and its budget."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from eval.errors import UserError
from recipes.reward_search import __main__ as command
from recipes.reward_search import loop
from recipes.reward_search.budget import REPORT_S
from recipes.reward_search.candidates import Checked
from recipes.reward_search.finalists import choose_finalists
from recipes.reward_search.generators.base import Past
from recipes.reward_search.generators.grammar import GrammarGenerator
from recipes.reward_search.loop import find_winner, list_past, rank_candidates, read_scores
from recipes.reward_search.screening import is_done, marked_processes
from recipes.reward_search.settings import SearchSettings
from recipes.reward_search.state import load_search, open_search
from recipes.training_run.processes import ProcessFailed
from sar.terms.reward_file import read_reward_file

STANDIN = Path(__file__).with_name("standin.py")


def test_a_whole_search(standin: Any, small: SearchSettings, tmp_path: Path) -> None:
    screener = standin.StandInScreener(tmp_path, small)
    search = standin.run_search(tmp_path, screener)
    assert [one.name for one in search.candidates] == [
        f"r{number}c{place:02}" for number in (1, 2, 3) for place in (1, 2, 3, 4)
    ]
    assert {one.status for one in search.candidates} == {"screened"}
    # With the four of the first round; two run at a time, so either may be noted first.
    assert {"correctness-0", "sar-0"} <= set(screener.trained[:6])
    winner = find_winner(search)
    assert winner is not None
    singles = [f"{one.name}-0" for one in search.candidates]
    finals = [f"{one.name}-0" for one in choose_finalists(rank_candidates(search), small)[1:]]
    assert [one.partition("_")[0] for one in finals] == ["top", "top", "random"]
    seeds = [f"{winner.name}-1", "correctness-1", "sar-1"]
    expected = ["correctness-0", "sar-0", *singles, *finals, *seeds]
    assert Counter(screener.trained) == Counter(expected)  # each once
    assert not list(tmp_path.glob("runs/*/checkpoints"))
    assert load_search(tmp_path).is_finished
    for number in (2, 3):
        parents = [one.parents for one in search.candidates if one.round == number]
        assert any(parents)
        for names in parents:
            assert all(int(name[1]) < number for name in names)


@pytest.mark.slow
def test_what_later_rounds_see(standin: Any, small: SearchSettings, tmp_path: Path) -> None:
    seen: dict[int, list[Past]] = {}

    class Spy(GrammarGenerator):
        def propose(self, slots: Any, past: Any, known: Any, timeout_s: float) -> Any:
            seen[slots[0].round] = list(past)
            return super().propose(slots, past, known, timeout_s)

    def reject_first(source: str) -> Checked:
        return Checked("not this one" if not seen.get(2) and "0.4" in source else None)

    search = standin.run_search(
        tmp_path / "ranked",
        standin.StandInScreener(tmp_path / "ranked", small),
        generator=Spy(0),
        validate=reject_first,
    )
    assert seen[1] == []
    ranked = [one for one in seen[3] if one.rank]
    assert [one.rank for one in ranked] == list(range(1, len(ranked) + 1))
    assert len(seen[3]) == 8
    values = [one.scores.aes or 0.0 for one in ranked if one.scores]
    assert values == sorted(values, reverse=True)
    assert {one.candidate.reason for one in seen[3] if one.candidate.status == "rejected"} <= {
        "not this one"
    }
    assert [one.candidate.name for one in list_past(search) if one.rank] == rank_candidates(search)
    blind = replace(small, feedback="none")
    standin.run_search(
        tmp_path / "blind",
        standin.StandInScreener(tmp_path / "blind", blind),
        generator=Spy(0),
    )
    assert seen[3] == []


def test_a_candidate_whose_training_fails_is_left_out(
    standin: Any, small: SearchSettings, tmp_path: Path
) -> None:
    screener = standin.StandInScreener(tmp_path, small, failing="r1c02")
    search = standin.run_search(tmp_path, screener)
    failed = search.find("r1c02")
    assert failed is not None
    assert failed.status == "failed"
    assert failed.reason == "its training failed: exit code 1: some.log"
    assert "r1c02" not in rank_candidates(search)
    assert len(rank_candidates(search)) == 11
    assert "its training failed" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_an_evaluation_with_errors_counts_as_failed(
    standin: Any, small: SearchSettings, tmp_path: Path
) -> None:
    screener = standin.StandInScreener(tmp_path, small)
    screener.with_errors = "r1c03"
    search = standin.run_search(tmp_path, screener)
    failed = search.find("r1c03")
    assert failed is not None
    assert failed.status == "failed"
    assert "1 errors" in (failed.reason or "")
    assert not is_done(tmp_path, "r1c03", 0)
    assert len(rank_candidates(search)) == 11
    # Without its baseline a search stops, and goes on when the evaluation succeeds.
    folder = tmp_path / "other"
    screener = standin.StandInScreener(folder, small)
    screener.with_errors = "correctness"
    with pytest.raises(ProcessFailed, match="1 errors"):
        standin.run_search(folder, screener)
    search = standin.run_search(folder, standin.StandInScreener(folder, small))
    assert len(rank_candidates(search)) == 12


def test_without_the_baseline_nothing_can_be_ranked(
    standin: Any, small: SearchSettings, tmp_path: Path
) -> None:
    screener = standin.StandInScreener(tmp_path, small, failing="correctness")
    with pytest.raises(ProcessFailed, match=r"some\.log"):
        standin.run_search(tmp_path, screener)


def test_all_candidates_rejected(standin: Any, small: SearchSettings, tmp_path: Path) -> None:
    search = standin.run_search(
        tmp_path,
        standin.StandInScreener(tmp_path, small),
        validate=lambda source: Checked("bad"),
    )
    assert {one.status for one in search.candidates} == {"rejected"}
    assert find_winner(search) is None
    assert not (tmp_path / "winner").exists()
    assert "there is no winner" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["winner"] is None


def test_the_same_rewards_are_not_trained_twice(
    standin: Any, small: SearchSettings, tmp_path: Path
) -> None:
    search = standin.run_search(
        tmp_path,
        standin.StandInScreener(tmp_path, small),
        validate=lambda source: Checked(None, behaviour="equal"),
    )
    assert rank_candidates(search) == ["r1c01"]
    reasons = {one.reason for one in search.candidates if one.status == "rejected"}
    assert reasons == {"the same rewards for the probe batch as r1c01"}


@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["ranked", "none"])
def test_a_killed_search_goes_on(
    standin: Any, small: SearchSettings, tmp_path: Path, feedback: Any
) -> None:
    """Killed at random moments, it ends with the results of a search that was left alone."""
    settings = replace(small, feedback=feedback)
    rng = random.Random(feedback)
    killed = tmp_path / "killed"
    num_kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, str(STANDIN), str(killed), json.dumps(asdict(settings))],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if num_kills < 4:
            _wait_for_new_starts(killed, rng.randint(1, 6), process)
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
        output, _ = process.communicate(timeout=120)
        if process.returncode == 0:
            assert "finished" in output
            break
        num_kills += 1
    else:
        pytest.fail("the search never ended")
    assert num_kills >= 3
    left_alone = tmp_path / "left_alone"
    standin.run_search(left_alone, standin.StandInScreener(left_alone, settings))
    one, two = (
        json.loads((folder / "results.json").read_text()) for folder in (killed, left_alone)
    )
    assert one.pop("minutes") >= 0
    two.pop("minutes")
    assert one == two
    starts = Counter((killed / "started.txt").read_text().split())
    assert sum(starts.values()) - len(starts) <= 2 * num_kills  # only what was under way
    assert not list(killed.glob("**/*.partial"))


def _wait_for_new_starts(folder: Path, number: int, process: Any) -> None:
    def count() -> int:
        file = folder / "started.txt"
        return len(file.read_text().split()) if file.exists() else 0

    before = count()
    while count() < before + number and process.poll() is None:
        time.sleep(0.02)


def test_processes_of_a_killed_search_are_ended() -> None:
    with marked_processes("a-mark-of-this-test"):
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        time.sleep(0.2)  # a new process has its environment once its program has started
        assert orphan.poll() is None
        with marked_processes("a-mark-of-this-test"):
            assert orphan.wait(30) == -signal.SIGKILL
            assert other.poll() is None
    finally:
        for one in (orphan, other):
            one.kill()
            one.wait()
    assert "a-mark-of-this-test" not in os.environ.values()


def test_a_finished_search_trains_nothing_again(
    standin: Any, small: SearchSettings, tmp_path: Path
) -> None:
    standin.run_search(tmp_path, standin.StandInScreener(tmp_path, small))
    again = standin.StandInScreener(tmp_path, small)
    standin.run_search(tmp_path, again)
    assert again.trained == []
    assert again.num_prepared == 0


def test_a_killed_search_knows_its_time(
    standin: Any, small: SearchSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file tells the time while the start model is trained, too."""
    monkeypatch.setattr(loop, "_SAVE_EVERY_S", 0.05)
    told: list[float] = []

    class Slow(standin.StandInScreener):  # type: ignore[misc, name-defined, unused-ignore]
        def prepare(self, stop: Any) -> None:
            ends_s = time.monotonic() + 60
            while len(set(told)) < 3 and time.monotonic() < ends_s:
                time.sleep(0.05)
                told.append(json.loads((tmp_path / "search.json").read_text())["used_s"])

    standin.run_search(tmp_path, Slow(tmp_path, replace(small, rounds=1)))
    assert told == sorted(told)
    assert len(set(told)) == 3
    again = load_search(tmp_path)
    assert again.used_s > told[-1]


def test_other_settings_are_refused(standin: Any, small: SearchSettings, tmp_path: Path) -> None:
    open_search(tmp_path, small)
    with pytest.raises(UserError, match="rounds = 3, not 5"):
        open_search(tmp_path, replace(small, rounds=5))


def test_a_folder_of_something_else_is_refused(small: SearchSettings, tmp_path: Path) -> None:
    (tmp_path / "rewards").mkdir()
    with pytest.raises(UserError, match="has rewards and no search to continue"):
        open_search(tmp_path, small)
    argv = ["run", "--generator", "grammar", "--output", str(tmp_path)]
    assert command.main(argv) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["rewards"]  # and no lock


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"settings": {}}', '{"settings": {"generator": "grammar"}}', "null"]
)
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(UserError, match=r"search\.json"):
        load_search(tmp_path)


@pytest.mark.slow
def test_the_budget_is_kept(standin: Any, small: SearchSettings, tmp_path: Path) -> None:
    """Runs of 2 s, two at a time: the rounds end early, so that the finalists still fit."""
    screener = standin.StandInScreener(tmp_path, replace(small, rounds=9), run_s=2)
    started_s = time.monotonic()
    search = standin.run_search(tmp_path, screener, budget_s=REPORT_S + 20)
    assert time.monotonic() - started_s < REPORT_S + 20
    assert search.ended_by_budget
    num_screened = len(rank_candidates(search))
    assert 0 < num_screened < 36
    for one in choose_finalists(rank_candidates(search), small):
        assert is_done(tmp_path, one.name, 0)
    assert "The budget ended the search" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_with_more_time_other_candidates_make_the_ensembles(
    standin: Any, small: SearchSettings, tmp_path: Path
) -> None:
    """What was trained on as an ensemble of others is not taken for the new one's run."""
    early = standin.StandInScreener(tmp_path, small, run_s=1)
    search = standin.run_search(tmp_path, early, budget_s=REPORT_S + 6)
    before = choose_finalists(rank_candidates(search), small)
    assert search.ended_by_budget
    search = standin.run_search(tmp_path, standin.StandInScreener(tmp_path, small))
    after = choose_finalists(rank_candidates(search), small)
    assert len(rank_candidates(search)) == 12
    assert [one.label for one in after[1:]] == ["top_even", "top_by_rank", "random_draw"]
    for one in after:
        assert is_done(tmp_path, one.name, 0)
        same = [other.weights == one.weights for other in before if other.name == one.name]
        assert all(same)


def test_a_run_that_takes_too_long_is_stopped(
    standin: Any, small: SearchSettings, tmp_path: Path
) -> None:
    screener = standin.StandInScreener(tmp_path, small, run_s=600)
    started_s = time.monotonic()
    search = standin.run_search(tmp_path, screener, budget_s=REPORT_S + 1)
    assert time.monotonic() - started_s < REPORT_S + 60
    assert search.ended_by_budget
    assert screener.trained == []
    assert {one.status for one in search.candidates} == {"waiting"}
    # More time, and the search goes on.
    again = standin.StandInScreener(tmp_path, small)
    search = standin.run_search(tmp_path, again)
    assert len(rank_candidates(search)) == 12
    assert not search.ended_by_budget


def test_the_winner_can_be_trained_with(
    standin: Any, small: SearchSettings, tmp_path: Path
) -> None:
    search = standin.run_search(tmp_path, standin.StandInScreener(tmp_path, small))
    winner = find_winner(search)
    assert winner is not None
    finalists = choose_finalists(rank_candidates(search), small)[:3]
    best = max(finalists, key=lambda one: read_scores(search, one.name).aes or 0.0)
    assert winner == best
    composition = read_reward_file(tmp_path / "winner" / "reward.toml")
    assert {one.name: one.weight for one in composition.terms} == dict(winner.weights)
    for name in winner.weights:
        candidate = search.find(name)
        assert candidate is not None
        assert (tmp_path / "winner" / f"{name}.py").read_text() == candidate.source
