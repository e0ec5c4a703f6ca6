"""The files of a run: any content is read back, also from a file that was cut short."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.errors import UserError
from eval.records import (
    BenchmarkDescription,
    Record,
    RecordWriter,
    RunDescription,
    iter_records,
    read_run,
    write_json,
)
from eval.run.output import GradedSamples, read_graded

RECORD = Record(
    id="a/1",
    sample=0,
    question="1+1?",
    prompt="<|user|>1+1?",
    response="2",
    label="2",
    correct=True,
    reason="correct",
    answer="2",
    num_tokens=2,
    finish_reason="stop",
    seed=None,
)
ERROR = replace(RECORD, response=None, correct=None, reason=None, error="the server is gone")
RUN = RunDescription(
    model="m",
    backend="vllm",
    flags={"n": 1},
    versions={"python": "3.11"},
    chat_template={"text": None, "sha256": None},
    prompt_style="paper",
    system_prompt="s",
    instruction="i",
    generation={"temperature": 0.0},
    benchmarks={"gsm8k": BenchmarkDescription("f", 1, "openai/gsm8k", "main", "test", "r", "hub")},
    prompts_fingerprint="p",
    started_at="2026-01-01T00:00:00+00:00",
)


def _write(path: Path, records: Iterable[Record]) -> None:
    with closing(RecordWriter(path)) as writer:
        for record in records:
            writer.write(record)


def test_a_line_holds_the_fields_of_the_contract(tmp_path: Path) -> None:
    _write(tmp_path / "x.jsonl", [RECORD, ERROR])
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert lines == [asdict(RECORD), asdict(ERROR)]
    assert list(lines[0]) == [
        "id", "sample", "question", "prompt", "response", "label", "correct", "reason", "answer",
        "num_tokens", "finish_reason", "seed", "error",
    ]  # fmt: skip


@given(text=st.text(st.characters(exclude_categories=())))
def test_any_text_is_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """Including line separators and lone surrogates."""
    path = tmp_path_factory.mktemp("records") / "x.jsonl"
    written = replace(RECORD, response=text)
    _write(path, [written, RECORD])
    assert list(iter_records(path)) == [written, RECORD]


def test_the_last_record_of_a_sample_counts(tmp_path: Path) -> None:
    wrong, other = replace(RECORD, sample=1, correct=False), replace(RECORD, id="a/0")
    records = [ERROR, other, wrong, RECORD, replace(ERROR, id="a/0")]
    _write(tmp_path / "x.jsonl", records)
    assert list(iter_records(tmp_path / "x.jsonl")) == records
    assert read_graded(tmp_path, "x") == GradedSamples(keys={("a/1", 0), ("a/1", 1)}, num_correct=1)


@pytest.mark.parametrize("cut", [0, 1, 50, 200])
def test_an_incomplete_last_line_is_skipped_and_removed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.jsonl"
    _write(path, [RECORD, ERROR])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + cut])
    assert list(iter_records(path)) == [RECORD]
    _write(path, [ERROR])
    assert path.read_bytes() == whole


def test_an_incomplete_first_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": "a')
    assert list(iter_records(path)) == []
    _write(path, [RECORD])
    assert list(iter_records(path)) == [RECORD]


def test_an_incomplete_line_longer_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    _write(path, [RECORD])
    with path.open("ab") as file:
        file.write(b"x" * 200_000)
    _write(path, [ERROR])
    assert list(iter_records(path)) == [RECORD, ERROR]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: expected an object, found list"),
        ("[" * 100_000, "line 2: "),
        (json.dumps({"\x1b" * 10**6: 1}), "line 2: .{,300}$"),
        (json.dumps({k: v for k, v in asdict(RECORD).items() if k != "seed"}), "missing .* 'seed'"),
        (json.dumps({**asdict(RECORD), "score": 1}), "unknown field 'score'"),
    ],
)
def test_a_line_that_is_not_a_record(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "x.jsonl"
    _write(path, [RECORD])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=complaint):
        list(iter_records(path))


def test_run_description(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", asdict(RUN))
    assert read_run(tmp_path) == RUN
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": 1}', "nonsense", "[" * 10**5])
def test_a_broken_run_description(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json: "):
        read_run(tmp_path)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run here"):
        read_run(tmp_path)
