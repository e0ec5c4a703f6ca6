"""The command `python -m sar rescore`: its reports, its output files and its errors."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sar.__main__ import main
from sar.decision import Decision
from sar.grading.verdict import Reason, Verdict
from sar.rescore import find_log_files, read_log

ROOT = Path(__file__).parents[3]


def write_log(path: Path, decisions: Sequence[Decision]) -> Path:
    path.write_text("".join(d.to_json() + "\n" for d in decisions), encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["rescore", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def counts(report: str) -> dict[str, str]:
    """The report's figures by their names."""
    lines = [line.split("  ", 1) for line in report.splitlines() if not line.startswith(" ")]
    return {name.strip(): value.strip() for name, value in lines}


def test_the_command_says_what_a_weight_changes(
    decision: Callable[..., Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    status, report, errors = run(capsys, log)
    assert (status, errors) == (0, "")
    assert counts(report)["rewards changed"] == "0"
    assert counts(report)["mean reward"] == "0.800000 -> 0.800000"

    output = tmp_path / "new" / "out.jsonl"
    output.parent.mkdir()
    status, report, _ = run(capsys, log, "--sar-weight", "0.4", "--output", output)
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

    status, report, _ = run(capsys, output)  # an output is a log
    assert counts(report)["rewards changed"] == "0"
    status, report, _ = run(capsys, output, "--sar-weight", "0.2")
    assert counts(report)["mean reward"] == "0.850000 -> 0.800000"


def test_a_folder_is_read_in_order_and_each_file_once(
    decision: Callable[..., Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_log(tmp_path / f"rewards-{number}.jsonl", [decision()] * (number + 1))
    (tmp_path / "notes.txt").write_text("not a log")
    assert [f.name[8] for f in find_log_files([tmp_path, tmp_path / "rewards-1.jsonl"])] == list(
        "012"
    )
    _, report, _ = run(capsys, tmp_path, tmp_path / "rewards-1.jsonl")
    assert counts(report)["decisions"] == "6"


def test_empty_files_have_no_decisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").touch()
    status, report, _ = run(capsys, tmp_path)
    assert status == 0
    assert counts(report)["mean reward"] == "0.000000 -> 0.000000"


# --- what is wrong with a log or a command ---


@pytest.mark.parametrize("cut", [1, 30, -1, -2])
def test_an_incomplete_last_line_is_reported_and_skipped(
    decision: Callable[..., Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: int
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision("你好 5")] * 3)
    whole = log.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    log.write_bytes(whole[: -len(last)] + last[:cut])
    write_log(tmp_path / "b.jsonl", [decision()])
    status, report, errors = run(capsys, tmp_path)
    assert status == 0
    if cut == -1:  # only its line end is missing
        assert (counts(report)["decisions"], errors) == ("4", "")
    else:
        assert counts(report)["decisions"] == "3"
        assert errors == f"warning: {log}:3: skipped an incomplete last line\n"


def test_a_line_cut_inside_a_character_is_incomplete(
    decision: Callable[..., Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision("你好")] * 2)
    cut = log.read_bytes().rindex("好".encode()) + 1
    log.write_bytes(log.read_bytes()[:cut])
    status, report, errors = run(capsys, log)
    assert (status, counts(report)["decisions"]) == (0, "1")
    assert f"{log}:2" in errors


@pytest.mark.parametrize("bad", [b"{", b"", b"\xff", b'{"schema": 1}', b"\0" * 10])
def test_any_other_bad_line_is_an_error_that_names_it(
    decision: Callable[..., Decision],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bad: bytes,
) -> None:
    good = decision().to_json().encode()
    log = tmp_path / "a.jsonl"
    log.write_bytes(good + b"\n" + bad + b"\n" + good + b"\n")
    output = tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    status, report, errors = run(capsys, log, "--output", output)
    assert (status, report) == (1, "")
    assert errors.startswith(f"error: {log}:2: not a decision: ")
    assert errors.count("\n") == 1
    assert list(output.parent.iterdir()) == []


def test_a_path_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, errors = run(capsys, tmp_path / "nowhere")
    assert (status, errors) == (1, f"error: {tmp_path}/nowhere: no such file or folder\n")
    status, _, errors = run(capsys, tmp_path)
    assert (status, errors) == (1, f"error: {tmp_path}: no .jsonl file in it\n")


def test_an_output_never_replaces_a_log(
    decision: Callable[..., Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision()])
    before = log.read_bytes()
    for arguments in ([log, "--output", log], [tmp_path, "--output", tmp_path / "b.jsonl"]):
        status, _, errors = run(capsys, *arguments)
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
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision()])
    with pytest.raises(SystemExit) as exit_:
        main(["rescore", str(log), *arguments])
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom sar.__main__ import main\n"
        "try:\n main(['rescore', '--help'])\nexcept SystemExit:\n pass\n"
        "print('LOADED', *({'torch', 'transformers', 'sympy', 'numpy', 'tqdm'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    shown = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    ).stdout
    assert "--sar-weight" in shown
    assert shown.splitlines()[-1].split() == ["LOADED"]


def test_a_terminal_gets_a_progress_bar(decision: Callable[..., Decision], tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision()] * 3)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "sar", "rescore", str(log)]
    subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, check=True, timeout=600
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert re.search(r"rescoring: +0%", shown)
    assert "rescoring: 100%" in shown


def test_memory_does_not_grow_with_the_log(
    decision: Callable[..., Decision], tmp_path: Path
) -> None:
    """20,000 responses of 10 kB, 200 MB, in little more memory than one."""
    line = decision("x" * 10_000).to_json() + "\n"
    script = (
        "import re, sys\nfrom pathlib import Path\nfrom sar.__main__ import main\n"
        "assert main(['rescore', sys.argv[1], '--sar-weight', '0.1']) == 0\n"
        # Not getrusage, which starts from the parent's peak.
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for num_lines in (1, 20_000):
        log = tmp_path / f"{num_lines}.jsonl"
        with log.open("w") as file:
            file.writelines(line for _ in range(num_lines))
        command = [sys.executable, "-c", script, str(log)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
        )
        peaks.append(int(done.stdout.split()[-1]))
        log.unlink()
    print(f"peak kB for 1 and 20,000 decisions: {peaks}")
    assert peaks[1] - peaks[0] < 10_000


# --- grading again ---


def test_grading_again_is_in_order_and_flips_what_it_should(
    decision: Callable[..., Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    status, report, _ = run(capsys, log, "--regrade", *workers)
    assert status == 0
    assert (counts(report)["right -> wrong"], counts(report)["wrong -> right"]) == ("1", "1")
    assert f"{log}:2: label '5': math wrong '?' -> math correct '5'" in report
    assert f"{log}:5: label '5': math correct '6' -> math wrong '6'" in report
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["correct", "correct", "correct", "wrong", "wrong"]
    flipped = [row for row in rows if row["was"]["correctness"] != row["correctness"]]
    assert [row["reward"] - row["was"]["reward"] for row in flipped] == pytest.approx([1, -1])

    status, report, _ = run(capsys, log, "--grader", "exact", *workers)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["correct", "correct", "wrong", "wrong", "wrong"]
    assert {row["grader"] for row in rows} == {"exact"}
    assert {row["was"]["grader"] for row in rows} == {"math"}


def test_a_label_that_the_grader_cannot_grade_is_an_error_with_its_line(
    decision: Callable[..., Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision(label="B"), decision(label="17")])
    status, report, errors = run(capsys, log, "--grader", "choice", "--grader-workers", 1)
    assert (status, report) == (1, "")
    assert errors == (
        f"error: {log}:2: the choice answer '17' is not a letter A-Z or one option's text; list "
        "the options in `choices`, or use the grader exact\n"
    )


# --- real rollouts ---


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
    real_decisions: list[Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "a.jsonl", real_decisions)
    status, report, _ = run(capsys, log, "--grader", "math", "--grader-workers", 2)
    assert status == 0
    assert counts(report)["decisions"] == "400"
    assert counts(report)["rewards changed"] == "0"


def test_real_rollouts_with_forged_verdicts_are_put_right(
    real_decisions: list[Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    status, report, _ = run(capsys, log, "--regrade", "--grader-workers", 2, "--output", output)
    assert status == 0
    assert (counts(report)["right -> wrong"], counts(report)["wrong -> right"]) == ("200", "200")
    assert len([line for line in report.splitlines() if line.startswith("  ")]) == 10
    afters = [d.decision for d in read_log(output, on_torn=pytest.fail)]
    assert [a.reward for a in afters] == [d.reward for d in real_decisions]


def test_real_solutions_by_words_alone(
    decision: Callable[..., Decision],
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
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
    status, report, _ = run(capsys, log, "--grader", "math", "--grader-workers", 2)
    assert (status, counts(report)["right -> wrong"]) == (0, "0")
    status, report, _ = run(capsys, log, "--grader", "exact", "--grader-workers", 2)
    assert (status, counts(report)["right -> wrong"]) == (0, str(len(answers)))
    assert report.count(": math correct None -> exact wrong '") == 5


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
    decision: Callable[..., Decision],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
) -> None:
    line = decision().to_json()
    assert old in line
    log = tmp_path / "a.jsonl"
    log.write_text(line + "\n" + line.replace(old, new) + "\n", encoding="utf-8")
    output = tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    status, report, errors = run(capsys, log, "--output", output)
    assert (status, report) == (1, "")
    assert errors.startswith(f"error: {log}:2: ")
    assert errors[:-1].isprintable()
    assert len(errors) < 600
    assert list(output.parent.iterdir()) == []


def test_half_a_character_that_a_decision_holds_is_an_error_line(
    decision: Callable[..., Decision],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Today's parser refuses it in a log; a later one may not."""
    monkeypatch.setattr(Decision, "from_json", lambda line: decision(response="\ud83d"))
    log = write_log(tmp_path / "a.jsonl", [decision()])
    (tmp_path / "out").mkdir()
    status, _, errors = run(capsys, log, "--output", tmp_path / "out" / "o.jsonl")
    assert status == 1
    assert errors.startswith(f"error: {log}:1: the decision cannot be written: ")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_output_is_as_private_as_the_log(
    decision: Callable[..., Decision], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "a.jsonl", [decision()])
    output = tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    assert run(capsys, log, "--output", output)[0] == 0
    assert output.stat().st_mode & 0o777 == 0o600
