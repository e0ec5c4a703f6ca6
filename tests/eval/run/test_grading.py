"""A whole run over real responses whose verdicts are known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from eval.backends.base import BackendDescription, Completion, Completions, Request
from eval.records import iter_records
from eval.run.command import main


class RolloutBackend:
    """Answers with published responses to GSM8K, known by the question."""

    description = BackendDescription(None)

    def __init__(self, responses: dict[str, str]) -> None:
        self._responses = responses

    def render_prompt(self, system_prompt: str, user_turn: str) -> str:
        return user_turn

    def generate(self, requests: Iterable[Request]) -> Completions:
        for request in requests:
            yield Completion(request, self._responses[request.key.problem.id], None, "stop")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("column", ["response", "response_clean"])
def test_accuracy_of_400_rollouts_is_the_known_one(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    rows = [json.loads(x) for x in (data_folder / "gsm8k_rollouts.jsonl").read_text().splitlines()]
    problems = (data_folder / "gsm8k.jsonl").read_text().splitlines(keepends=True)
    by_index = {row["gsm8k_test_index"]: row for row in rows}
    assert len(by_index) == 400
    chosen = sorted(by_index)
    (tmp_path / "gsm8k.jsonl").write_text("".join(problems[i] for i in chosen))
    for i in chosen:
        assert json.loads(problems[i])["question"] == by_index[i]["question"]
    responses = {str(n): by_index[i][column] for n, i in enumerate(chosen)}
    known = {str(n): by_index[i]["is_correct"] for n, i in enumerate(chosen)}
    monkeypatch.setattr("eval.run.command.load_backend", lambda _: RolloutBackend(responses))
    run = tmp_path / "run"
    flags = ["--output", str(run), "--data-dir", str(tmp_path), "--benchmarks", "gsm8k"]
    assert main(flags) == 0
    summary = json.loads((run / "summary.json").read_text())
    accuracy = summary["benchmarks"]["gsm8k"]["metrics"]["accuracy"]["value"]
    assert abs(accuracy - sum(known.values()) / 400) < 0.01
    records = iter_records(run / "gsm8k.jsonl")
    assert {r.id: r.correct for r in records} == known
