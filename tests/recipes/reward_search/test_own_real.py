"""One real screening by the command itself: a model, data and a benchmark that the user names."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from eval.records import read_run
from recipes.reward_search import __main__ as command
from recipes.reward_search.screening import find_evaluation
from sar.models import BUNDLED_MODEL
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION

SHORTER = """\
def reward(sample):
    value = 1.0 if sample["correct"] else 0.0
    return value - 0.2 * min(1.0, sample["response_tokens"] / 64)
"""


@pytest.mark.slow
def test_a_search_with_a_model_and_data_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hand = tmp_path / "hand"
    hand.mkdir()
    (hand / "a.py").write_text(SHORTER)
    data = tmp_path / "train.jsonl"
    rows = [
        {
            "prompt": [
                {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
                {"role": "user", "content": f"{problem.question} {INSTRUCTION}"},
            ],
            "label": json.dumps({"answer": str(problem.answer), "grader": "math"}),
        }
        for problem in islice(generate(7, held_out=False), 5)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "search"
    argv = [
        *("run", "--generator", str(hand), "--output", str(folder), "--policy", str(BUNDLED_MODEL)),
        *("--train-data", str(data), "--benchmarks", "demo", "--rounds", "1", "--per-round", "1"),
        *("--num-seeds", "1", "--steps", "2", "--eval-problems", "8", "--eval-samples", "1"),
        *("--max-tokens", "96", "--prompts-per-step", "2", "--n-samples", "3"),
        *("--micro-batch-size", "2"),
    ]
    assert command.main(argv) == 0
    output = capsys.readouterr().out
    assert f"Policy: {BUNDLED_MODEL}, trained on {data}. Benchmarks: demo." in output
    assert "Winner: candidate r1c01" in output
    questions = {row["prompt"][1]["content"] for row in rows}  # type: ignore[index]
    for name in ("correctness-0", "sar-0", "r1c01-0"):
        run = folder / "runs" / name
        steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
        assert [one["step"] for one in steps] == [1, 2]
        for one in steps:
            assert one["template_mismatch"] == 0
        decisions = [
            json.loads(line)
            for file in (run / "rewards").iterdir()
            for line in file.read_text().splitlines()
        ]
        assert len(decisions) == 2 * 2 * 3
        assert all(any(text in one["prompt"] for text in questions) for one in decisions)
        assert not (run / "final").exists()
        assert not (run / "checkpoints").exists()
    for one in decisions:  # the candidate's
        expected = one["correctness"] - 0.2 * min(1.0, one["num_response_tokens"] / 64)
        assert one["reward"] == pytest.approx(expected, abs=1e-5)
    description = read_run(find_evaluation(folder, "r1c01", 0))
    assert description.system_prompt == DEFAULT_SYSTEM_PROMPT
    assert description.generation["max_tokens"] == 96
    # The same command trains nothing again; other data are refused.
    before = (folder / "runs" / "r1c01-0" / "train.log").stat().st_mtime_ns
    assert command.main(argv) == 0
    assert before == (folder / "runs" / "r1c01-0" / "train.log").stat().st_mtime_ns
    data.write_text(data.read_text() + json.dumps(rows[0]) + "\n")
    assert command.main(argv) == 2
    assert "has a search with train_data_sha256 = " in capsys.readouterr().err
