"""`python -m sar grade --file`: its table and summary, its output file, errors and exit status."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from reward_server.config import ServerConfig
from sar.commands.grader_options import DEFAULT_TIMEOUT_S
from sar.decision import Decision
from sar.grading.label import Label, parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Reason, Verdict

ROOT = Path(__file__).parents[3]
UNREADABLE_LABEL = r"\frac{"
HEADER = ["line", "verdict", "answer", "label", "where", "why"]
AS_TEXT = "label cannot be parsed as mathematics; compared as plain text"
Grade = Callable[..., tuple[int, str, str]]
WriteRows = Callable[[Path, Sequence[object]], Path]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table_of(report: str) -> list[list[str]]:
    """Line, verdict and answer of each row."""
    return [line.split()[:3] for line in report.partition("\n\n")[0].splitlines()[1:]]


def test_a_file_gets_a_table_and_a_summary(
    tmp_path: Path, grade: Grade, write_rows: WriteRows
) -> None:
    file = write_rows(
        tmp_path / "rows.jsonl",
        [
            {"response": "It is 5.", "label": "5"},
            {"response": r"\boxed{6}", "label": "5"},
            "",
            {"response": "Hm.", "label": {"answer": "B"}},
            {"response": "It is 5.", "label": UNREADABLE_LABEL},
            {"response": "<answer>yes</answer>", "label": "true"},
        ],
    )
    status, report, errors = grade("--file", file)
    assert (status, errors) == (0, "")
    assert table_of(report) == [
        ["1", "correct", "5"],
        ["2", "wrong", "6"],
        ["4", "no_answer", "-"],
        ["5", "unreadable", "5"],
        ["6", "correct", "true"],
    ]
    wheres = [line.split()[4] for line in report.partition("\n\n")[0].splitlines()[1:]]
    assert wheres == ["ending", "box", "-", "ending", "tag"]
    summary = report.partition("\n\n")[2].splitlines()
    assert [" ".join(line.split()) for line in summary] == [
        "rows graded 5",
        "correct 2 40.0%",
        "wrong 1 20.0%",
        "no_answer 1 20.0%",
        f"unreadable 1 20.0% {AS_TEXT}",
        "boolean 1 100.0% correct",
        "choice 1 0.0% correct",
        "math 3 33.3% correct",
        "unreadable labels: 1, line 5",
    ]


HUGE = "x" * 10**6


@pytest.mark.parametrize(
    "bad",
    [
        {"response": HUGE, "label": {HUGE: 1}},
        {"response": "x", "label": {"answer": "5", "grader": HUGE}},
        {"response": "x", "label": "5", "expected": HUGE},
        {"response": "x", "label": "5", "expected": int("9" * 4000)},
        {f"{n}{HUGE[:1000]}": 1 for n in range(100)},
        {"response": "x", "label": "5", "expected": "\ud83d\n\x1b\u2028" * 999},
    ],
    ids=range(6),
)
def test_a_bad_row_is_echoed_in_one_short_line(
    tmp_path: Path, bad: dict[str, object], grade: Grade, write_rows: WriteRows
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [bad])
    status, _, errors = grade("--file", file, "--expected-key", "expected")
    assert status == 2
    assert errors[:-1].isprintable()
    assert len(errors) < 600


BAD_ROWS = [
    ("{", "not JSON: Expecting property name enclosed in double quotes at character 2; each line"),
    ("[" * 10**5, "not JSON"),
    ("[1]", "not a JSON object; each line must be one JSON object"),
    ('{"completion": "x"}', "no 'response'; the row has 'completion': name the right one with"),
    ("{}", "no 'response'; the row has no fields"),
    ('{"response": "x", "answer": "5"}', "no 'label'; the row has 'response', 'answer': name"),
    ('{"response": ["x"], "label": "5"}', "'response' is not a string"),
    ('{"response": "x", "label": 5}', "'label': a label is a string or an object, not a number"),
    ('{"response": "x", "label": {"answer": "5", "garder": "math"}}', "unknown label field"),
    ('{"response": "x", "label": "5", "expected": "no"}', "'expected' is 'no'; it must be 0, 1,"),
    ('{"response": "x", "label": "5", "expected": 2}', "'expected' is 2; it must be 0, 1,"),
]


@pytest.mark.parametrize(("bad", "complaint"), BAD_ROWS)
def test_a_bad_row_names_its_line_and_the_rest_is_graded(
    tmp_path: Path, bad: str, complaint: str, grade: Grade, write_rows: WriteRows
) -> None:
    good = {"response": "It is 5.", "label": "5"}
    file = write_rows(tmp_path / "rows.jsonl", [good, bad, good])
    status, report, errors = grade("--file", file, "--expected-key", "expected")
    assert status == 2
    assert errors.startswith(f"error: {file}:2: ")
    assert complaint in errors
    assert errors.count("\n") == 1
    assert table_of(report) == [["1", "correct", "5"], ["3", "correct", "5"]]
    assert "not graded: 1, line 2\n" in report


def test_bytes_that_are_not_text_are_a_bad_row_and_a_byte_order_mark_is_none(
    tmp_path: Path, grade: Grade
) -> None:
    good = b'{"response": "It is 5.", "label": "5"}'
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\xff\n" + good)
    status, report, errors = grade("--file", file)
    assert (status, errors) == (2, f"error: {file}:2: not UTF-8; each line must be one JSON object"
                                   " in UTF-8\n")  # fmt: skip
    assert [row[0] for row in table_of(report)] == ["1", "3"]


def test_files_that_cannot_be_read_or_written_are_named(
    tmp_path: Path, grade: Grade, write_rows: WriteRows
) -> None:
    status, report, errors = grade("--file", tmp_path / "nowhere.jsonl")
    assert (status, report) == (2, "")
    assert errors.startswith("error: FileNotFoundError: ")
    assert "nowhere.jsonl" in errors
    file = write_rows(tmp_path / "rows.jsonl", [])
    status, _, errors = grade("--file", file, "--output", tmp_path / "no" / "out.jsonl")
    assert status == 2
    assert "out.jsonl" in errors


def test_an_empty_file(tmp_path: Path, grade: Grade, write_rows: WriteRows) -> None:
    status, report, errors = grade("--file", write_rows(tmp_path / "rows.jsonl", []))
    assert (status, errors) == (0, "")
    assert report.split() == [*HEADER, "rows", "graded", "0"]


def test_other_fields_and_expected_verdicts(
    tmp_path: Path, grade: Grade, write_rows: WriteRows
) -> None:
    rows = [
        {"out": "It is 5.", "gold": "5", "ok": 1},
        {"out": "It is 5.", "gold": "6", "ok": True},
        {"out": "It is 5.", "gold": "6", "ok": 0.0},
        {"out": "It is 5.", "gold": "6", "ok": None},
        {"out": "It is 5.", "gold": "6"},
        {"out": "It is 5.", "gold": "5", "ok": False},
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    keys = ["--file", file, "--response-key", "out", "--label-key", "gold"]
    status, report, _ = grade(*keys, "--expected-key", "ok")
    assert status == 1
    assert report.endswith(
        "expected: 2 of 4 verdicts agree, not lines 2 (expected 1), 6 (expected 0)\n"
    )
    status, report, _ = grade(*keys, "--expected-key", "right")
    assert status == 0
    assert report.endswith("expected: no graded row has 'right'\n")
    status, report, _ = grade(*keys)
    assert (status, "expected" in report) == (0, False)


def test_the_output_has_a_line_for_each_row(
    tmp_path: Path, grade: Grade, write_rows: WriteRows
) -> None:
    rows: list[object] = [
        {"response": r"\boxed{5}", "label": {"answer": "5"}, "ok": 1},
        {"response": "It is \ud800.", "label": "\ud800"},
        "{",
        {"response": "It is 5.", "label": UNREADABLE_LABEL},
    ]
    output = tmp_path / "out.jsonl"
    file = write_rows(tmp_path / "rows.jsonl", rows)
    status, _, _ = grade("--file", file, "--output", output, "--expected-key", "ok")
    assert status == 2
    first, second, bad, last = read_lines(output)
    assert first.pop("rule")
    assert first == {
        "line": 1,
        "label": {"answer": "5"},
        "grader": "math",
        "correctness": 1.0,
        "reason": "correct",
        "answer": "5",
        "label_unreadable": False,
        "source": r"in \boxed{}",
        "expected": 1.0,
    }
    assert second["label"] == "\ud800"
    assert list(bad) == ["line", "error"]
    assert (last["line"], last["reason"], last["label_unreadable"]) == (4, "wrong", True)


def test_a_grader_names_every_row(tmp_path: Path, grade: Grade, write_rows: WriteRows) -> None:
    rows = [{"response": "It is 5.0.", "label": label} for label in ("5", "B")]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    status, report, _ = grade("--file", file, "--grader", "exact")
    assert status == 0
    assert "exact              2    0.0% correct" in report


def test_a_grader_that_fails_costs_only_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grade: Grade, write_rows: WriteRows
) -> None:
    submit = GraderPool.submit

    def fail_at_6(pool: GraderPool, response: str, label: Label) -> Future[Verdict]:
        if response != "6":
            return submit(pool, response, label)
        failed: Future[Verdict] = Future()
        failed.set_exception(RuntimeError("3 grader processes in a row\ndied"))
        return failed

    monkeypatch.setattr(GraderPool, "submit", fail_at_6)
    rows = [{"response": said, "label": said} for said in ("6", "5")]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    status, report, errors = grade("--file", file)
    assert status == 2
    assert table_of(report) == [["2", "correct", "5"]]
    assert errors == (
        f"error: {file}:1: the grader failed: RuntimeError: 3 grader processes in a row; "
        "grade this row again\n"
    )


# --- as the server grades ---


def test_the_time_limit_is_the_servers() -> None:
    assert ServerConfig.model_fields["grader_timeout"].default == DEFAULT_TIMEOUT_S


def test_a_reward_log_is_graded_as_the_server_graded_it(
    decision: Callable[..., Decision], tmp_path: Path, grade: Grade, write_rows: WriteRows
) -> None:
    logged = [
        decision("It is 5.<|im_end|>", "5", special_tokens=["<|im_end|>"]),
        # The prompt opened the thinking, so the first answer does not count.
        decision("It is 5.</think>It is 6.", "5", Reason.WRONG, prompt="Q <think>\n"),
        decision("It is 5.", "5", Reason.NO_ANSWER, prompt="Q <think>\n"),
    ]
    log = write_rows(tmp_path / "log.jsonl", [one.to_json() for one in logged])
    output = tmp_path / "out.jsonl"
    status, report, _ = grade("--file", log, "--expected-key", "correctness", "--output", output)
    assert status == 0
    assert report.endswith("expected: 3 of 3 verdicts agree\n")
    assert [row["reason"] for row in read_lines(output)] == ["correct", "wrong", "no_answer"]


def test_many_rows_have_the_verdicts_of_the_grader_pool_in_order(
    tmp_path: Path, grade: Grade, write_rows: WriteRows
) -> None:
    cases = read_lines(ROOT / "tests/sar/grading/cases.jsonl")[::20]
    rows = [{"response": case["response"], "label": case["label"]} for case in cases]
    assert len(rows) > 2 * 2 * 16  # more than is read ahead
    output = tmp_path / "out.jsonl"
    file = write_rows(tmp_path / "rows.jsonl", rows)
    status, _, _ = grade("--file", file, "--output", output)
    assert status == 0
    pool = GraderPool(2, DEFAULT_TIMEOUT_S)
    futures = [pool.submit(row["response"], parse_label(row["label"])) for row in rows]
    verdicts = [(f.result().reason, f.result().answer) for f in futures]
    pool.close()
    assert [(row["reason"], row["answer"]) for row in read_lines(output)] == verdicts


def test_real_rollouts_agree(data_folder: Path, tmp_path: Path, grade: Grade) -> None:
    status, report, _ = grade(
        *("--file", data_folder / "gsm8k_rollouts.jsonl", "--label-key", "answer"),
        *("--expected-key", "is_correct"),
    )
    assert status == 0
    assert report.endswith("expected: 400 of 400 verdicts agree\n")


# --- as a program ---
