"""`python -m eval run` with canned responses: records, resuming, refused folders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from eval.backends.base import BackendDescription, Completion, Completions, Request
from eval.benchmarks import BENCHMARKS, Problem
from eval.errors import UserError
from eval.records import Record, iter_records
from eval.run.command import main, run
from eval.run.config import parse_args
from eval.run.loop import Task, ask_and_grade, derive_seed
from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION

Answer = Callable[[Request], Completion]
Start = Callable[..., tuple[int, "CannedBackend"]]


class CannedBackend:
    """Answers with what `answer` returns, and records what it was asked."""

    def __init__(self, answer: Answer, template: str | None = "{{ x }}") -> None:
        self.description = BackendDescription(template, {"class": "canned"})
        self.asked: list[tuple[str, str, int]] = []
        self.is_closed = False
        self._answer = answer

    def render_prompt(self, system_prompt: str, user_turn: str) -> str:
        return f"{system_prompt}|{user_turn}|"

    def generate(self, requests: Iterable[Request]) -> Completions:
        for request in requests:
            task = request.key
            self.asked.append((task.benchmark.name, task.problem.id, task.sample))
            yield self._answer(request)

    def close(self) -> None:
        self.is_closed = True


def says(text: Callable[[Task], str]) -> Answer:
    return lambda request: Completion(request, text(request.key), 7, "stop")


def right(request: Request) -> Completion:
    label = request.key.problem.label.answer.partition(" or ")[0]  # AIME's "080 or 081 (...)"
    return Completion(request, f"Thus. The answer is {label}.", 9, "stop")


def broken(request: Request) -> Completion:
    return Completion(request, error="ServerError: gone")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_folder: Path) -> Start:
    """Runs the command with a canned backend; its exit code and the backend."""

    def start(answer: Answer, *flags: str, template: str | None = "t") -> tuple[int, CannedBackend]:
        backend = CannedBackend(answer, template)
        monkeypatch.setattr("eval.run.command.load_backend", lambda _: backend)
        command = ["--output", str(tmp_path / "run"), "--data-dir", str(data_folder), *flags]
        return main([*command, "--grader-workers", "2"]), backend

    return start


def _records(tmp_path: Path, benchmark: str) -> list[Record]:
    """The last record of each sample, sorted by id and sample."""
    latest = {r.key: r for r in iter_records(tmp_path / "run" / f"{benchmark}.jsonl")}
    return [latest[key] for key in sorted(latest)]


def test_all_seven(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, backend = start(right, "--limit", "5")
    assert code == 0
    assert backend.is_closed
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    seven = [b for b in BENCHMARKS if b != "demo"]
    assert list(described["benchmarks"]) == list(summary["benchmarks"]) == seven
    assert summary["average"]["metrics"]["accuracy"]["value"] == 1.0
    for name in seven:
        records = _records(tmp_path, name)
        assert len(records) == described["benchmarks"][name]["num_problems"]
        assert {(r.correct, r.reason, r.error, r.sample) for r in records} == {
            (True, "correct", None, 0)
        }
        joiner = BENCHMARKS[name].joiner
        for r in records:
            assert r.prompt == f"{DEFAULT_SYSTEM_PROMPT}|{r.question}{joiner}{INSTRUCTION}|"
            assert (r.num_tokens, r.finish_reason, r.seed) == (9, "stop", None)
    out = capsys.readouterr().out
    assert re.search(r"^gsm8k +5 +5 +100\.0%", out, re.MULTILINE)
    assert re.search(r"^average", out, re.MULTILINE)


def test_run_json_has_everything_to_repeat_the_run(start: Start, tmp_path: Path) -> None:
    start(right, "--limit", "2", "--benchmarks", "gsm8k", "--n", "2", "--temperature", "0.7")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["model"] == "bundled"
    assert described["flags"]["limit"] == 2
    assert described["generation"] == {
        "temperature": 0.7, "top_p": 1.0, "max_tokens": 4096, "n": 2, "seed": 0,
    }  # fmt: skip
    assert {"python", "torch", "transformers", "sar-reward-server"} <= described["versions"].keys()
    assert described["chat_template"]["text"] == "t"
    assert len(described["chat_template"]["sha256"]) == len(described["prompts_fingerprint"]) == 64
    assert described["system_prompt"] == DEFAULT_SYSTEM_PROMPT
    assert described["instruction"] == INSTRUCTION
    gsm8k = described["benchmarks"]["gsm8k"]
    assert (gsm8k["hub_id"], gsm8k["config"], gsm8k["split"]) == ("openai/gsm8k", "main", "test")


def test_each_sample_has_its_own_seed(start: Start, tmp_path: Path) -> None:
    flags = ["--limit", "3", "--benchmarks", "gsm8k,aime", "--n", "4", "--temperature", "1"]
    start(right, *flags)
    seeds = [r.seed for name in ("gsm8k", "aime") for r in _records(tmp_path, name)]
    assert len(set(seeds)) == len(seeds) == 24
    assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)
    (problem,) = [p for p in _records(tmp_path, "aime") if p.key == ("own-2", 3)]
    task = Task(BENCHMARKS["aime"], _problem("own-2"), 3)
    assert problem.seed == derive_seed(0, task) != derive_seed(1, task)


def _problem(id_: str) -> Problem:
    return Problem(id_, "", parse_label("1"))


def test_errors_are_not_wrong_answers_and_are_repeated(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def every_third_breaks(request: Request) -> Completion:
        return broken(request) if int(request.key.problem.id) % 3 == 0 else right(request)

    flags = ["--limit", "9", "--benchmarks", "gsm8k"]
    code, _ = start(every_third_breaks, *flags)
    assert code == 1
    assert "3 of 9 samples are errors" in capsys.readouterr().err
    bad = [r for r in _records(tmp_path, "gsm8k") if r.error]
    assert [(r.id, r.correct, r.response, r.error) for r in bad] == [
        (id_, None, None, "ServerError: gone") for id_ in ("0", "3", "6")
    ]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["benchmarks"]["gsm8k"]["num_errors"] == 3
    assert summary["benchmarks"]["gsm8k"]["metrics"]["accuracy"]["value"] == 1.0
    code, backend = start(right, *flags)
    assert code == 0
    assert backend.asked == [("gsm8k", id_, 0) for id_ in ("0", "3", "6")]
    assert all(r.correct for r in _records(tmp_path, "gsm8k"))
    assert len(_records(tmp_path, "gsm8k")) == 9


def test_a_failing_grader_is_an_error(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(GraderPool, "submit", fail)
    code, _ = start(right, "--limit", "2", "--benchmarks", "gsm8k")
    assert code == 1
    (record, _) = _records(tmp_path, "gsm8k")
    assert record.error == "the grader failed: RuntimeError: no memory"
    assert (record.correct, record.response) == (None, "Thus. The answer is 18.")


def test_a_backend_that_always_fails_stops_the_run(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, backend = start(broken, "--benchmarks", "gsm8k")
    assert code == 2
    assert "100 errors in a row, the last: ServerError: gone" in capsys.readouterr().err
    assert len(backend.asked) == len(_records(tmp_path, "gsm8k")) == 100
    assert backend.is_closed


def test_wrong_truncated_and_empty_responses(start: Start, tmp_path: Path) -> None:
    answers = {
        "0": ("The answer is 1.", 3, "stop"),
        "1": ("<think>Well, 3, or", 4096, "length"),
        "2": ("", 1, "stop"),
    }

    def answer(request: Request) -> Completion:
        return Completion(request, *answers[request.key.problem.id])

    start(answer, "--limit", "3", "--benchmarks", "gsm8k")
    assert [(r.correct, r.reason, r.finish_reason) for r in _records(tmp_path, "gsm8k")] == [
        (False, "wrong", "stop"),
        (False, "no_answer", "length"),
        (False, "no_answer", "stop"),
    ]


def test_thinking_that_the_prompt_opened(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CannedBackend, "render_prompt", lambda *_: "Q<think>\n")
    flags = ["--limit", "2", "--benchmarks", "gsm8k"]
    start(says(lambda task: f"is it {task.problem.label.answer}?"), *flags)
    assert {r.reason for r in _records(tmp_path, "gsm8k")} == {"no_answer"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("num_answered", [0, 1, 7, 29])
def test_a_resumed_run_asks_for_nothing_twice(
    start: Start, tmp_path: Path, num_answered: int
) -> None:
    flags = ["--limit", "5", "--benchmarks", "gsm8k,logicbench", "--n", "3", "--temperature", "1"]
    answered: list[int] = []

    def until_killed(request: Request) -> Completion:
        if len(answered) == num_answered:
            raise Killed
        answered.append(1)
        return right(request)

    with pytest.raises(Killed):
        start(until_killed, *flags)
    first = {
        (name, *r.key): r
        for name in ("gsm8k", "logicbench")
        if (tmp_path / "run" / f"{name}.jsonl").exists()
        for r in _records(tmp_path, name)
    }
    assert len(first) == num_answered
    code, backend = start(right, *flags)
    assert code == 0
    assert len(backend.asked) == 30 - num_answered
    assert not set(backend.asked) & first.keys()
    after = {(n, *r.key): r for n in ("gsm8k", "logicbench") for r in _records(tmp_path, n)}
    assert len(after) == 30
    assert all(after[key] == record for key, record in first.items())
    code, backend = start(right, *flags)
    assert (code, backend.asked) == (0, [])
    assert not backend.is_closed  # a finished run loads no model


def test_a_sample_with_an_incomplete_line_is_repeated(start: Start, tmp_path: Path) -> None:
    flags = ["--limit", "4", "--benchmarks", "gsm8k"]
    start(right, *flags)
    path = tmp_path / "run" / "gsm8k.jsonl"
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    _, backend = start(right, *flags)
    assert len(backend.asked) == 1
    assert [r.id for r in _records(tmp_path, "gsm8k")] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--max-tokens", "5"], "--max-tokens was 4096 and is 5"),
        (["--model", "Qwen/Qwen3-4B"], "--model was 'bundled' and is 'Qwen/Qwen3-4B'"),
        (["--limit", "3"], "--limit was 4 and is 3; the problems of gsm8k differ (4 from"),
        (["--benchmarks", "aime"], "--benchmarks was 'gsm8k' and is 'aime'"),
        (["--temperature", "1"], "--temperature was 0.0 and is 1.0"),
        (["--system-prompt", "x"], "the system prompt differs"),
        (["--instruction", ""], "the instruction differs"),
        (["--prompt-style", "bare"], "--prompt-style was 'paper' and is 'bare'"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    start: Start,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    difference: str,
) -> None:
    start(right, "--limit", "4", "--benchmarks", "gsm8k")
    before = (tmp_path / "run" / "gsm8k.jsonl").read_bytes()
    code, backend = start(right, "--limit", "4", "--benchmarks", "gsm8k", *flags)
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert "holds another run: " in error
    assert difference in error
    assert backend.asked == []
    assert (tmp_path / "run" / "gsm8k.jsonl").read_bytes() == before


def test_other_data_is_refused(
    start: Start, tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--limit", "4", "--benchmarks", "gsm8k"]
    start(right, *flags)
    other = tmp_path / "data"
    other.mkdir()
    lines = (data_folder / "gsm8k.jsonl").read_text().splitlines(keepends=True)
    (other / "gsm8k.jsonl").write_text("".join(lines[1:]))
    code, _ = start(right, *flags, "--data-dir", str(other))
    assert code == 2
    assert "the problems of gsm8k differ" in capsys.readouterr().err
    # The same data elsewhere is the same data.
    (other / "gsm8k.jsonl").write_text("".join(lines))
    assert start(right, *flags, "--data-dir", str(other))[0] == 0


def test_another_chat_template_is_refused_if_samples_are_missing(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--limit", "4", "--benchmarks", "gsm8k"]
    start(lambda r: right(r) if r.key.problem.id == "0" else broken(r), *flags)
    code, backend = start(right, *flags, template="another")
    assert (code, backend.asked) == (2, [])
    assert "the chat template differs" in capsys.readouterr().err


def test_flags_that_do_not_define_the_run_may_change(start: Start) -> None:
    flags = ["--limit", "4", "--benchmarks", "gsm8k"]
    start(broken, *flags)
    code, backend = start(right, *flags, "--batch-size", "3", "--device", "cpu")
    assert (code, len(backend.asked)) == (0, 4)


def test_records_without_a_description(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "gsm8k.jsonl").write_text("")
    assert start(right, "--benchmarks", "gsm8k")[0] == 2
    assert "has gsm8k.jsonl, but no run.json" in capsys.readouterr().err


def test_two_runs_do_not_write_into_one_folder(
    start: Start, tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner: list[int] = []

    def start_another(request: Request) -> Completion:
        if not inner:
            inner.append(start(right, "--limit", "2", "--benchmarks", "gsm8k")[0])
        return right(request)

    code, _ = start(start_another, "--limit", "2", "--benchmarks", "gsm8k")
    assert (inner, code) == ([2], 0)
    assert "another run is writing there" in capsys.readouterr().err


def test_a_full_disk_stops_the_run(data_folder: Path) -> None:
    def record(task: Task, made: Record) -> None:
        raise OSError(28, "No space left on device")

    config = parse_args(["--output", "x", "--benchmarks", "gsm8k", "--data-dir", str(data_folder)])
    assert config.limit is None
    task = Task(BENCHMARKS["gsm8k"], _problem("1"), 0)
    requests = [Request(task, "", "", "", None)] * 5
    with closing(GraderPool(1, 5.0)) as graders, pytest.raises(OSError, match="No space left"):
        ask_and_grade(requests, CannedBackend(right), graders, record, 1)


def test_requests_are_taken_a_few_ahead_only(tmp_path: Path) -> None:
    """Memory never holds all requests or all responses."""
    taken: list[int] = []
    recorded: list[int] = []
    ahead: list[int] = []

    def requests() -> Iterator[Request]:
        for index in range(2000):
            taken.append(index)
            ahead.append(len(taken) - len(recorded))
            yield Request(Task(BENCHMARKS["gsm8k"], _problem("1"), index), "", "", "", None)

    with closing(GraderPool(2, 5.0)) as graders:
        ask_and_grade(requests(), CannedBackend(right), graders, lambda *_: recorded.append(1), 2)
    assert len(recorded) == 2000
    assert max(ahead) < 100


def test_run_raises_what_main_prints(tmp_path: Path, data_folder: Path) -> None:
    config = parse_args(["--output", str(tmp_path), "--data-dir", str(tmp_path)])
    with pytest.raises(UserError, match="gsm8k: no file"):
        run(config)
