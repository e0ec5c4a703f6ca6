"""`python -m sar rescore` with a log that cannot be read, or a wrong option: one line of error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sar.__main__ import main
from sar.decision import Decision

if TYPE_CHECKING:
    from tests.sar.commands.conftest import Rescore, WriteLog


@pytest.mark.parametrize("bad", [b"{", b"", b"\xff", b'{"schema": 1}', b"\0" * 10])
def test_any_other_bad_line_is_an_error_that_names_it(
    decision: Callable[..., Decision], tmp_path: Path, bad: bytes, rescore: Rescore
) -> None:
    good = decision().to_json().encode()
    log = tmp_path / "a.jsonl"
    log.write_bytes(good + b"\n" + bad + b"\n" + good + b"\n")
    output = tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    status, report, errors = rescore(log, "--output", output)
    assert (status, report) == (1, "")
    assert errors.startswith(f"error: {log}:2: not a decision: ")
    assert errors.count("\n") == 1
    assert list(output.parent.iterdir()) == []


def test_a_path_that_is_not_there_is_named(tmp_path: Path, rescore: Rescore) -> None:
    status, _, errors = rescore(tmp_path / "nowhere")
    assert (status, errors) == (1, f"error: {tmp_path}/nowhere: no such file or folder\n")
    (tmp_path / "a.jsonl").mkdir()
    os.mkfifo(tmp_path / "b.jsonl")
    status, _, errors = rescore(tmp_path)
    assert (status, errors) == (1, f"error: {tmp_path}: no .jsonl file in it\n")


def test_an_output_never_replaces_a_log(
    decision: Callable[..., Decision], tmp_path: Path, rescore: Rescore, write_log: WriteLog
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision()])
    before = log.read_bytes()
    for arguments in ([log, "--output", log], [tmp_path, "--output", tmp_path / "b.jsonl"]):
        status, _, errors = rescore(*arguments)
        assert status == 1
        assert f"--output {arguments[2]}: would replace a log or be read as one" in errors
    assert list(tmp_path.iterdir()) == [log]
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sar-weight", "nan"], "'nan' is not a number from -100 to 100"),
        (["--sar-weight", "x"], "'x' is not a number"),
        (["--grader", "maths"], "invalid choice: 'maths'"),
        (["--grader-workers", "2"], "--grader-workers needs --regrade or --grader"),
        (["--grader-timeout", "2"], "--grader-timeout needs --regrade or --grader"),
        (["--regrade", "--grader-workers", "0"], "'0' is not a whole number from 1 to 256"),
        (["--regrade", "--grader-workers", "1.5"], "'1.5' is not a whole number"),
        (["--regrade", "--grader-timeout", "0"], "'0' is not a number from 0.1 to 3600"),
    ],
)
def test_a_wrong_option_is_named(
    decision: Callable[..., Decision],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
    write_log: WriteLog,
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision()])
    with pytest.raises(SystemExit) as exit_:
        main(["rescore", str(log), *arguments])
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_label_that_the_grader_cannot_grade_is_an_error_with_its_line(
    decision: Callable[..., Decision], tmp_path: Path, rescore: Rescore, write_log: WriteLog
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision(label="B"), decision(label="17")])
    status, report, errors = rescore(log, "--grader", "choice", "--grader-workers", 1)
    assert (status, report) == (1, "")
    assert errors == (
        f"error: {log}:2: the choice answer '17' is not a letter A-Z or one option's text; list "
        "the options in `choices`, or use the grader exact\n"
    )


SURROGATE = r"\ud83d"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"The answer is 5."', f'"{SURROGATE} 5"'),
        ('"The answer is 5."', r'"\ude00\ud83d"'),
        ('"label": "5"', f'"label": {{"answer": "{SURROGATE}"}}'),
        ('"label": "5"', f'"label": {{"answer": "5", "{SURROGATE}": 1}}'),
        # Python reads these numbers from JSON and cannot write them as JSON.
        ('"label": "5"', '"label": {"answer": "5", "weight": NaN}'),
        ('"label": "5"', f'"label": {{"answer": "5", "weight": {"9" * 5000}}}'),
        ('"label": "5"', f'"label": {{"answer": "5", "weight": {"[" * 5000}'),
        ('"schema": 1', f'"schema": "{"x" * 10**6}"'),
        ('"mode": "train"', f'"mode": "{"x" * 10**6}"'),
    ],
    ids=range(9),
)
def test_what_cannot_be_read_or_written_is_one_short_error_line(
    decision: Callable[..., Decision], tmp_path: Path, old: str, new: str, rescore: Rescore
) -> None:
    line = decision().to_json()
    assert old in line
    log = tmp_path / "a.jsonl"
    log.write_text(line + "\n" + line.replace(old, new) + "\n", encoding="utf-8")
    output = tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    status, report, errors = rescore(log, "--output", output)
    assert (status, report) == (1, "")
    assert errors.startswith(f"error: {log}:2: ")
    assert errors[:-1].isprintable()
    assert len(errors) < 600
    assert list(output.parent.iterdir()) == []


def test_half_a_character_that_a_decision_holds_is_an_error_line(
    decision: Callable[..., Decision],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rescore: Rescore,
    write_log: WriteLog,
) -> None:
    """Today's parser refuses it in a log; a later one may not."""
    monkeypatch.setattr(Decision, "from_json", lambda line: decision(response="\ud83d"))
    log = write_log(tmp_path / "a.jsonl", [decision()])
    (tmp_path / "out").mkdir()
    status, _, errors = rescore(log, "--output", tmp_path / "out" / "o.jsonl")
    assert status == 1
    assert errors.startswith(f"error: {log}:1: the decision cannot be written: ")
    assert list((tmp_path / "out").iterdir()) == []
