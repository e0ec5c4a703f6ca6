"""`python -m sar rescore` of logs that can be read: reports, output files, grading again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sar.decision import Decision
from sar.grading.verdict import Reason, Verdict
from sar.rescore import find_log_files, read_log

if TYPE_CHECKING:
    from tests.sar.commands.conftest import Rescore, WriteLog


def counts(report: str) -> dict[str, str]:
    """The report's figures by their names."""
    lines = [line.split("  ", 1) for line in report.splitlines() if not line.startswith(" ")]
    return {name.strip(): value.strip() for name, value in lines}


def test_the_command_says_what_a_weight_changes(
    decision: Callable[..., Decision], tmp_path: Path, rescore: Rescore, write_log: WriteLog
) -> None:
    half = {"nll_qa": 0.0, "nll_a": math.log(2)}  # SAR 0.5
    log = write_log(
        tmp_path / "a.jsonl",
        [
            decision(**half),
            decision(reason=Reason.WRONG, **half),
            decision(label={"answer": "5", "mode": "eval"}, **half),
            decision(nll_qa=0.5, nll_a=0.5),
        ],
    )
    before = log.read_bytes()
    status, report, errors = rescore(log)
    assert (status, errors) == (0, "")
    assert counts(report)["rewards changed"] == "0"
    assert counts(report)["mean reward"] == "0.800000 -> 0.800000"

    output = tmp_path / "new" / "out.jsonl"
    output.parent.mkdir()
    status, report, _ = rescore(log, "--sar-weight", "0.4", "--output", output)
    assert status == 0
    assert counts(report) == {
        "decisions": "4",
        "rewards changed": "2",
        "mean reward": "0.800000 -> 0.850000",
        "right -> wrong": "0",
        "wrong -> right": "0",
    }
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["reward"] for row in rows] == [1.2, 0.2, 1.0, 1.0]
    assert [row["was"]["reward"] for row in rows] == [1.1, 0.1, 1.0, 1.0]
    assert log.read_bytes() == before

    status, report, _ = rescore(output)  # an output is a log
    assert counts(report)["rewards changed"] == "0"
    status, report, _ = rescore(output, "--sar-weight", "0.2")
    assert counts(report)["mean reward"] == "0.850000 -> 0.800000"


def test_a_folder_is_read_in_order_and_each_file_once(
    decision: Callable[..., Decision], tmp_path: Path, rescore: Rescore, write_log: WriteLog
) -> None:
    for number in range(3):
        write_log(tmp_path / f"rewards-{number}.jsonl", [decision()] * (number + 1))
    (tmp_path / "notes.txt").write_text("not a log")
    assert [f.name[8] for f in find_log_files([tmp_path, tmp_path / "rewards-1.jsonl"])] == list(
        "012"
    )
    _, report, _ = rescore(tmp_path, tmp_path / "rewards-1.jsonl")
    assert counts(report)["decisions"] == "6"


def test_empty_files_have_no_decisions(tmp_path: Path, rescore: Rescore) -> None:
    (tmp_path / "empty.jsonl").touch()
    status, report, _ = rescore(tmp_path)
    assert status == 0
    assert counts(report)["mean reward"] == "0.000000 -> 0.000000"


@pytest.mark.parametrize("cut", [1, 30, -1, -2])
def test_an_incomplete_last_line_is_reported_and_skipped(
    decision: Callable[..., Decision],
    tmp_path: Path,
    cut: int,
    rescore: Rescore,
    write_log: WriteLog,
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision("你好 5")] * 3)
    whole = log.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    log.write_bytes(whole[: -len(last)] + last[:cut])
    write_log(tmp_path / "b.jsonl", [decision()])
    status, report, errors = rescore(tmp_path)
    assert status == 0
    if cut == -1:  # only its line end is missing
        assert (counts(report)["decisions"], errors) == ("4", "")
    else:
        assert counts(report)["decisions"] == "3"
        assert errors == f"warning: {log}:3: skipped an incomplete last line\n"


def test_a_line_cut_inside_a_character_is_incomplete(
    decision: Callable[..., Decision], tmp_path: Path, rescore: Rescore, write_log: WriteLog
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision("你好")] * 2)
    cut = log.read_bytes().rindex("好".encode()) + 1
    log.write_bytes(log.read_bytes()[:cut])
    status, report, errors = rescore(log)
    assert (status, counts(report)["decisions"]) == (0, "1")
    assert f"{log}:2" in errors


def test_the_output_is_as_private_as_the_log(
    decision: Callable[..., Decision], tmp_path: Path, rescore: Rescore, write_log: WriteLog
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision()])
    output = tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    assert rescore(log, "--output", output)[0] == 0
    assert output.stat().st_mode & 0o777 == 0o600


def test_grading_again_is_in_order_and_flips_what_it_should(
    decision: Callable[..., Decision], tmp_path: Path, rescore: Rescore, write_log: WriteLog
) -> None:
    log = write_log(
        tmp_path / "a.jsonl",
        [
            decision("The answer is 5.", "5", answer="5"),
            decision("The answer is 5.", "5", Reason.WRONG, answer="?"),  # a false verdict
            decision("The answer is 5.0.", "5", answer="5.0"),
            decision("The answer is 6.", "5", Reason.WRONG, answer="6"),
            decision("The answer is 6.", "5", Reason.CORRECT, answer="6"),  # another
        ],
    )
    output = tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    workers = ["--grader-workers", 1, "--output", output]
    status, report, _ = rescore(log, "--regrade", *workers)
    assert status == 0
    assert (counts(report)["right -> wrong"], counts(report)["wrong -> right"]) == ("1", "1")
    assert f"{log}:2: label '5': math wrong '?' -> math correct '5'" in report
    assert f"{log}:5: label '5': math correct '6' -> math wrong '6'" in report
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["correct", "correct", "correct", "wrong", "wrong"]
    flipped = [row for row in rows if row["was"]["correctness"] != row["correctness"]]
    assert [row["reward"] - row["was"]["reward"] for row in flipped] == pytest.approx([1, -1])

    status, report, _ = rescore(log, "--grader", "exact", *workers)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["correct", "correct", "wrong", "wrong", "wrong"]
    assert {row["grader"] for row in rows} == {"exact"}
    assert {row["was"]["grader"] for row in rows} == {"math"}


@pytest.fixture
def real_decisions(data_folder: Path, decision: Callable[..., Decision]) -> list[Decision]:
    """400 published responses of known verdict, logged as a server that graded them would."""
    lines = (data_folder / "gsm8k_rollouts.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        decision(
            row["response"],
            row["answer"],
            Reason.CORRECT if row["is_correct"] else Reason.WRONG,
            prompt=row["question"],
            nll_qa=0.3 + index / 1000,
            nll_a=0.5,
        )
        for index, row in enumerate(rows)
    ]


def test_real_rollouts_graded_again_keep_their_verdict(
    real_decisions: list[Decision], tmp_path: Path, rescore: Rescore, write_log: WriteLog
) -> None:
    log = write_log(tmp_path / "a.jsonl", real_decisions)
    status, report, _ = rescore(log, "--grader", "math", "--grader-workers", 2)
    assert status == 0
    assert counts(report)["decisions"] == "400"
    assert counts(report)["rewards changed"] == "0"


def test_real_rollouts_with_forged_verdicts_are_put_right(
    real_decisions: list[Decision], tmp_path: Path, rescore: Rescore, write_log: WriteLog
) -> None:
    forged = [
        one.decide_again(
            Verdict(Reason.WRONG if one.correctness else Reason.CORRECT), one.grader, "train", 0.2
        )
        for one in real_decisions
    ]
    log = write_log(tmp_path / "a.jsonl", forged)
    output = tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    status, report, _ = rescore(log, "--regrade", "--grader-workers", 2, "--output", output)
    assert status == 0
    assert (counts(report)["right -> wrong"], counts(report)["wrong -> right"]) == ("200", "200")
    assert len([line for line in report.splitlines() if line.startswith("  ")]) == 10
    afters = [d.decision for d in read_log(output, on_torn=pytest.fail)]
    assert [a.reward for a in afters] == [d.reward for d in real_decisions]


def test_real_solutions_by_words_alone(
    decision: Callable[..., Decision],
    data_folder: Path,
    tmp_path: Path,
    rescore: Rescore,
    write_log: WriteLog,
) -> None:
    """Numbers that are equal but not the same words flip, and nothing else does."""
    rows = [json.loads(line) for line in (data_folder / "openr1.jsonl").read_text().splitlines()]
    answers = [row["answer"] for row in rows if row["answer"].isdecimal()]
    assert len(answers) > 20
    log = write_log(
        tmp_path / "a.jsonl",
        [
            decision(rf"So it is \boxed{{{said}}}.", label)
            for answer in answers
            for said, label in ((answer, answer), (f"{answer}.0", answer))
        ],
    )
    status, report, _ = rescore(log, "--grader", "math", "--grader-workers", 2)
    assert (status, counts(report)["right -> wrong"]) == (0, "0")
    status, report, _ = rescore(log, "--grader", "exact", "--grader-workers", 2)
    assert (status, counts(report)["right -> wrong"]) == (0, str(len(answers)))
    assert report.count(": math correct None -> exact wrong '") == 5
