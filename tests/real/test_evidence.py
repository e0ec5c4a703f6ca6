"""The first rollouts, scored again, have the committed scores of docs/evidence.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.evidence.command import score_missing
from eval.evidence.scores import plan_tasks, read_rollouts, read_scores

SCORES = Path(__file__).parents[2] / "docs" / "evidence" / "scores.csv"
NUM_ROLLOUTS, NUM_CHANGED = 3, 1


def test_scores_are_reproduced(smollm2: Path, data_folder: Path, tmp_path: Path) -> None:
    rollouts = read_rollouts(data_folder / "gsm8k_rollouts.jsonl")
    tasks = plan_tasks(NUM_ROLLOUTS, NUM_CHANGED)
    again = score_missing(rollouts, tasks, str(smollm2), tmp_path / "scores.csv")
    committed = {(score.rollout, score.variant): score for score in read_scores(SCORES)}
    assert len(again) == NUM_ROLLOUTS + 9 * NUM_CHANGED
    for score in again:
        expected = committed[score.rollout, score.variant]
        assert score.sar == pytest.approx(expected.sar, abs=1e-4), score
        assert score.correctness == expected.correctness
        assert score.num_tokens == expected.num_tokens
