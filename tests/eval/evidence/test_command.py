"""`python -m eval evidence` with the bundled model."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.evidence.scores import read_scores
from sar.models import BUNDLED_MODEL
from sar.models.evaluate_demo import compute_sars
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION, render_prompt
from sar.scoring.transformers_scorer import TransformersScorer
from sar.tokenization import RolloutTokenizer

PROBLEMS = list(islice(generate(seed=6, held_out=True), 6))


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three right responses and three wrong ones."""
    file = tmp_path_factory.mktemp("rollouts") / "rollouts.jsonl"
    rows = [
        {
            "question": problem.question,
            "response": "not this one",
            "response_clean": problem.wrong_end if index % 2 else problem.concise,
            "answer": str(problem.answer),
        }
        for index, problem in enumerate(PROBLEMS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def arguments(rollouts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    output = tmp_path_factory.mktemp("evidence") / "made" / "here"
    command = ["--model", str(BUNDLED_MODEL), "--rollouts", str(rollouts), "--output", str(output)]
    return ["evidence", *command]


@pytest.mark.slow
def test_it_scores_as_the_server_does_and_writes_all_files(
    arguments: list[str], bundled_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--changed", "2"]) == 0
    output = Path(arguments[-1])
    assert "written twice | 1 |" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {
        "inputs.json", "scores.csv", "summary.json", "tables.md", "unchanged.png", "variants.png",
    }  # fmt: skip
    scores = read_scores(output / "scores.csv")
    assert len(scores) == 6 + 2 * 9
    honest = [score for score in scores if score.variant == "honest"]
    assert [score.correctness for score in honest] == [1, 0] * 3

    scorer = TransformersScorer.from_pretrained(str(BUNDLED_MODEL), max_batch_tokens=4096)
    encoder = RolloutTokenizer(bundled_tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT)
    for index, score in enumerate(honest):
        user_turn = f"{PROBLEMS[index].question} {INSTRUCTION}"
        prompt = render_prompt(bundled_tokenizer, user_turn, DEFAULT_SYSTEM_PROMPT)
        text = PROBLEMS[index].wrong_end if index % 2 else PROBLEMS[index].concise
        (sar,) = compute_sars(scorer, encoder, prompt, [text + "<|im_end|>"])
        assert score.sar == pytest.approx(sar, abs=1e-5)
        assert score.num_tokens == len(bundled_tokenizer.encode(text + "<|im_end|>"))


@pytest.mark.slow
def test_the_same_command_continues_and_gives_the_same_files(
    arguments: list[str], tmp_path: Path
) -> None:
    """Half a run, continued, scores as a whole one, and the same scores give the same files."""
    output = Path(arguments[-1])
    if not output.exists():
        assert main([*arguments, "--changed", "2"]) == 0
    before = (output / "scores.csv").read_text().splitlines()
    assert main([*arguments, "--changed", "3"]) == 0
    after = (output / "scores.csv").read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) == len(before) + 9
    files = [path for path in output.iterdir() if path.name != "inputs.json"]
    written = {path: path.read_bytes() for path in files}
    for path in files:
        if path.name != "scores.csv":
            path.unlink()
    assert main([*arguments, "--changed", "3"]) == 0
    assert {path: path.read_bytes() for path in files} == written
    whole = tmp_path / "whole"
    assert main([*arguments[:-1], str(whole), "--changed", "3"]) == 0
    # Sequences that share a forward pass with others may differ in the last digits.
    for one, other in zip(
        read_scores(output / "scores.csv"), read_scores(whole / "scores.csv"), strict=True
    ):
        assert one.sar == pytest.approx(other.sar, abs=1e-5)


def test_scores_of_other_rollouts_are_not_mixed_in(
    arguments: list[str], rollouts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / "inputs.json").write_text('{"model": "another", "rollouts_sha256": ""}')
    assert main([*arguments[:-1], str(output)]) == 2
    assert "scores of another model or of other rollouts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no rollout"),
        ("[]", "line 1: expected an object, found a list"),
        ('{"question": "Q?", "response": "5"}', "line 1, field 'answer': is missing"),
        ('{"question": "Q?", "response": " ", "answer": "5"}', "field 'response': is empty"),
        (
            '{"question": "Q?", "response": "5", "answer": "5"}',
            "cannot load --model /nowhere: ",
        ),
    ],
)
def test_a_wrong_file_or_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    file = tmp_path / "rollouts.jsonl"
    file.write_text(line)
    options = ["--model", "/nowhere", "--rollouts", str(file), "--output", str(tmp_path / "output")]
    assert main(["evidence", *options]) == 2
    error = capsys.readouterr().err
    assert str(file) in error or "/nowhere" in message
    assert message in error
    assert error.count("\n") == 1
