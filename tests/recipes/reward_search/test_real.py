"""One real screening: a candidate rewards a few steps of GRPO through a server, in its sandbox."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from eval.records import read_run
from recipes.cpu_demo.plan import start_model_path
from recipes.reward_search.finalists import choose_finalists
from recipes.reward_search.generators.folder import FolderGenerator
from recipes.reward_search.loop import Loop, find_winner, rank_candidates, read_scores
from recipes.reward_search.report.write import write_report
from recipes.reward_search.screening import CpuDemoScreener, find_evaluation, marked_processes
from recipes.reward_search.settings import SearchSettings
from recipes.reward_search.state import open_search
from recipes.reward_search.validation import Validator
from sar.models import BUNDLED_MODEL

SHORTER = """\
def reward(sample):
    value = 1.0 if sample["correct"] else 0.0
    return value - 0.2 * min(1.0, sample["response_tokens"] / 64)
"""


@pytest.mark.slow
def test_a_tiny_search_with_real_training(tmp_path: Path) -> None:
    hand = tmp_path / "hand"
    hand.mkdir()
    (hand / "a.py").write_text(SHORTER)
    (hand / "b.py").write_text("def reward(sample):\n    return open('/etc/passwd').read()\n")
    folder = tmp_path / "search"
    folder.mkdir()
    start_model_path(folder).parent.mkdir()
    start_model_path(folder).symlink_to(BUNDLED_MODEL)
    settings = SearchSettings(
        str(hand), rounds=1, per_round=3, num_seeds=1, steps=3, eval_problems=8, eval_samples=1
    )
    search = open_search(folder, settings)
    screener = CpuDemoScreener(folder, settings)
    with marked_processes(search.mark):
        Loop(
            search,
            FolderGenerator(hand, 3),
            Validator(num_problems=2),
            screener,
            jobs=2,
            budget_s=math.inf,
        ).run()
    write_report(search)
    first, second = search.candidates
    assert (first.status, second.status) == ("screened", "rejected")
    assert "'open' is not allowed" in (second.reason or "")
    assert rank_candidates(search) == ["r1c01"]
    winner = find_winner(search)
    assert winner is not None
    assert choose_finalists(["r1c01"], settings) == [winner]
    scores = read_scores(search, "r1c01")
    assert scores.tokens is not None
    assert 1 < scores.tokens < 128
    # The trainer got what the candidate says.
    rewards = [
        json.loads(line)
        for file in (folder / "runs" / "r1c01-0" / "rewards").iterdir()
        for line in file.read_text().splitlines()
    ]
    assert len(rewards) == 3 * 4 * 6
    for one in rewards:
        expected = one["correctness"] - 0.2 * min(1.0, one["num_response_tokens"] / 64)
        assert one["reward"] == pytest.approx(expected, abs=1e-5)
    assert len((folder / "runs" / "r1c01-0" / "steps.jsonl").read_text().splitlines()) == 3
    description = read_run(find_evaluation(folder, "r1c01", 0))
    assert description.generation["n"] == 1
    assert not list(folder.glob("runs/*/checkpoints"))
    report = (folder / "report.html").read_text()
    assert "Winner: candidate r1c01" in report
