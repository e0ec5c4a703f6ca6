"""`python -m sar grade` of one response: its report, explanation, errors and exit status."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sar.__main__ import main
from sar.commands.verdict_text import name_verdict, say_why
from sar.grading.processes.pool import GraderPool
from sar.grading.processes.process import CallTimedOut
from sar.grading.verdict import Reason, Verdict

ROOT = Path(__file__).parents[3]
UNREADABLE_LABEL = r"\frac{"
AS_TEXT = "label cannot be parsed as mathematics; compared as plain text"
Grade = Callable[..., tuple[int, str, str]]
GradeAsProgram = Callable[..., subprocess.CompletedProcess[bytes]]


def fields(report: str) -> dict[str, str]:
    """The lines of a report on one response, by their names."""
    return {line[:9].strip(): line[10:] for line in report.splitlines()}


def test_a_correct_response(grade: Grade) -> None:
    status, report, errors = grade(r"So it is \boxed{0.75}.", "--label", r"\frac{3}{4}")
    assert (status, errors) == (0, "")
    shown = fields(report)
    assert list(shown) == ["verdict", "answer", "found", "why"]
    assert shown["verdict"] == "correct"
    assert shown["answer"] == "0.75"
    assert shown["found"] == r"in \boxed{}"
    assert shown["why"]


@pytest.mark.parametrize(
    ("response", "label", "verdict"),
    [
        ("It is 6.", "5", "wrong"),
        ("I do not know.", "5", "no_answer"),
        ("<think>It is 5.</think>", "5", "no_answer"),
        ("", "5", "no_answer"),
        ("It is 5.", UNREADABLE_LABEL, "unreadable (counts as wrong)"),
        ("9^{9^{9^{9^9}}} " * 2, "5", None),
    ],
)
def test_any_other_response_has_status_1_and_a_reason(
    response: str, label: str, verdict: str | None, grade: Grade
) -> None:
    status, report, _ = grade(response, "--label", label, "--grader-timeout", 2)
    assert status == 1
    assert verdict is None or fields(report)["verdict"] == verdict
    assert fields(report)["why"]


def test_an_unreadable_label_is_told_apart_from_a_wrong_answer(grade: Grade) -> None:
    _, report, _ = grade("It is 5.", "--label", UNREADABLE_LABEL)
    assert fields(report)["why"].startswith(f"{AS_TEXT}: ")
    _, report, _ = grade("It is 5.", "--label", "6")
    assert AS_TEXT not in report


def test_an_unreadable_label_with_the_answers_text_is_correct() -> None:
    verdict = Verdict(Reason.CORRECT, "f", label_unreadable=True, rule="same text")
    assert name_verdict(verdict) == "correct"
    assert say_why(verdict) == f"{AS_TEXT}: same text"


@pytest.mark.parametrize(
    ("label", "options", "grader"),
    [
        ("5", [], "math, chosen by the form of the label: it has a number"),
        ("B", [], "choice, chosen by the form of the label: it is a letter"),
        ("yes", [], "boolean, chosen by the form"),
        ("dark blue", [], "exact, chosen by the form"),
        ('{"answer": "5", "grader": "exact"}', [], "exact, named by the label"),
        ('{"answer": "5"}', [], "math, chosen by the form"),
        ('{"answer": "5", "grader": "math"}', ["--grader", "exact"], "exact, named by --grader"),
    ],
)
def test_explain_says_who_chose_the_grader(
    label: str, options: list[str], grader: str, grade: Grade
) -> None:
    _, report, _ = grade("It is 5.", "--label", label, "--explain", *options)
    assert fields(report)["grader"].startswith(grader)
    assert fields(report)["label"] == label


def test_explain_says_how_label_and_answer_were_read(grade: Grade) -> None:
    response = "<think>Is it 2?</think>\nFirst a line.\nSo it is \\boxed{0.75}, I think."
    _, report, _ = grade(response, "--label", r"\dfrac34", "--explain")
    shown = fields(report)
    assert shown["accepts"] == r"\frac{3}{4}: the number 3/4"
    assert shown["read as"] == "the number 3/4"
    assert shown["thinking"] == "24 characters, not graded"
    assert shown["text"] == r"First a line. So it is \boxed{>>>0.75<<<}, I think."


def test_the_documented_example_is_what_the_command_prints(grade: Grade) -> None:
    page = (ROOT / "docs/debugging-labels.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^    python -m sar grade ('.*)$", page, re.MULTILINE)
    [documented] = re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    _, report, _ = grade(*shlex.split(command))
    shown, wanted = fields(report), fields(documented)
    assert shown.pop("why")
    assert wanted.pop("why")
    assert shown == wanted


def test_explain_without_any_text(grade: Grade) -> None:
    _, report, _ = grade("<think>Is it 2?", "--label", "2", "--explain")
    assert fields(report)["text"] == "(nothing to grade)"


def test_a_verdict_stands_if_its_explanation_fails(
    monkeypatch: pytest.MonkeyPatch, grade: Grade
) -> None:
    def fail(*_: object) -> None:
        raise CallTimedOut("no result after 5.0 s")

    monkeypatch.setattr(GraderPool, "explain", fail)
    status, report, _ = grade("It is 5.", "--label", "5", "--explain")
    assert (status, fields(report)["verdict"]) == (0, "correct")
    assert fields(report)["read as"] == "not known: CallTimedOut: no result after 5.0 s"


def test_a_response_on_standard_input(grade_as_program: GradeAsProgram) -> None:
    done = grade_as_program("-", "--label", "5", "--explain", text="你好 \\boxed{5}\n\xff".encode())
    assert done.returncode == 0
    assert fields(done.stdout.decode())["text"] == "你好 \\boxed{>>>5<<<} ÿ"
    assert grade_as_program("-", "--label", "5", text=b"\xff\xfe It is 6.").returncode == 1


def test_minus_signs_as_the_help_says(grade: Grade) -> None:
    status, _, _ = grade("--label=-1/2", "--", "-0.5")
    assert status == 0
    status, _, _ = grade("--label=-x", r"\boxed{-x}")
    assert status == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give either a RESPONSE or --file"),
        (["5", "--file", "rows.jsonl"], "give either a RESPONSE or --file"),
        (["5"], "--label is missing"),
        (["5", "--label", " "], "--label: the label's answer is empty"),
        (["5", "--label", '{"answer": 5}'], "--label: the label's answer is a number"),
        (["5", "--label", "7", "--grader", "choice"], "--label: the choice answer '7' is not"),
        (["5", "--label", "7", "--grader", "maths"], "invalid choice: 'maths'"),
        (["5", "--label", "5", "--output", "x"], "--output needs --file"),
        (["5", "--label", "5", "--expected-key", "x"], "--expected-key needs --file"),
        (["--file", "x", "--label", "5"], "--label needs RESPONSE"),
        (["--file", "x", "--explain"], "--explain needs RESPONSE"),
        (["--file", "x", "--output", "x"], "--output x: would replace the file"),
        (["5", "--label", "5", "--grader-timeout", "0"], "'0' is not a number from 0.1"),
    ],
)
def test_a_wrong_option_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["grade", *arguments])
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


def test_help_loads_nothing_heavy_and_documents_the_exit_status() -> None:
    script = (
        "import sys\nfrom sar.__main__ import main\n"
        "try:\n main(['grade', '--help'])\nexcept SystemExit:\n pass\n"
        "print('LOADED', *({'torch', 'transformers', 'sympy', 'numpy', 'tqdm', 'pydantic'} "
        "& set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    shown = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    ).stdout
    assert "exit status:" in shown
    assert all(reason.value in shown for reason in Reason)
    assert shown.splitlines()[-1].split() == ["LOADED"]


def test_an_option_of_any_length_is_quoted_in_one_short_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    evil = "\x1b[2J\r\n\u2028" * 20_000
    label = json.dumps({"answer": "5", evil: 1})
    options = [["5", "--label", label], ["5", "--grader", evil], [f"--{evil}"], ["5", evil]]
    for arguments in (*options, ["5", "--label", "5", "--grader-timeout", evil]):
        with pytest.raises(SystemExit) as exit_:
            main(["grade", *arguments])
        assert exit_.value.code == 2
        complaint = capsys.readouterr().err.splitlines()[-1]
        assert complaint.startswith("python -m sar grade: error: ")
        assert complaint.isprintable()
        assert len(complaint) < 600
