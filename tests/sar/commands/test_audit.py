"""`python -m sar audit`: exit codes, outputs, mistakes, instant help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sar.__main__ import main
from sar.alarms.definitions import ALARMS
from sar.decision import Decision

if TYPE_CHECKING:
    from tests.sar.commands.conftest import WriteLog

ROOT = Path(__file__).parents[3]
Audit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_audit(capsys: pytest.CaptureFixture[str]) -> Audit:
    """Runs the command with these arguments; returns its status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["audit", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def healthy(decision: Callable[..., Decision], tmp_path: Path, write_log: WriteLog) -> Path:
    folder = tmp_path / "healthy"
    folder.mkdir()
    write_log(folder / "rewards-1-1-00001.jsonl", [decision()] * 64)
    write_log(folder / "rewards-1-1-00002.jsonl", [decision()] * 64)
    return folder


@pytest.fixture
def collapsed(decision: Callable[..., Decision], tmp_path: Path, write_log: WriteLog) -> Path:
    folder = tmp_path / "collapsed"
    folder.mkdir()
    long = replace(decision(), num_response_tokens=100, policy_version=5)
    short = replace(
        long,
        num_response_tokens=4,
        correctness=0.0,
        policy_version=10,
        time="2026-02-03T04:05:06.007",
    )
    write_log(folder / "rewards-1-1-00001.jsonl", [long] * 64 + [short] * 128)
    return folder


def test_a_healthy_log(run_audit: Audit, healthy: Path) -> None:
    status, output, errors = run_audit(healthy, "--window", 64)
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(ALARMS)]] == [a.name for a in ALARMS]
    assert "no alarm fired" in output
    assert lines[-1] == "128 rollouts; windows of 64"


def test_a_log_with_a_collapse(run_audit: Audit, collapsed: Path, tmp_path: Path) -> None:
    html, file = tmp_path / "new" / "a.html", tmp_path / "new" / "a.json"
    status, output, errors = run_audit(collapsed, "--window", 64, "--output", html, "--json", file)
    assert (status, errors) == (1, "")
    (row,) = [line.split() for line in output.splitlines() if line.startswith("length_collapse")]
    # Half of the window is short at rollout 64 + 64 + 8 at the latest, and confirmed a block later.
    assert row == ["length_collapse", "once", "136", "10", "2026-02-03T04:05:06.007"]
    assert "mean response length 100.0 -> 4.0 tokens" in output
    assert "first alarm: length_collapse at rollout 136, policy version 10" in output
    (document,) = json.loads(file.read_text())["runs"]
    assert document["log"] == str(collapsed)
    assert document["num_rollouts"] == 192
    assert [one["name"] for one in document["alarms"] if one["fired"]] == [
        "length_collapse",
        "correctness_falls",
    ]
    assert "<polyline" in html.read_text()
    for path in (html, file):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_is_a_log_too(run_audit: Audit, collapsed: Path) -> None:
    (file,) = collapsed.iterdir()
    assert run_audit(file, "--window", "64")[0] == 1


def test_several_logs_are_audited_each_on_its_own(
    run_audit: Audit, healthy: Path, collapsed: Path, tmp_path: Path
) -> None:
    html, file = tmp_path / "a.html", tmp_path / "a.json"
    status, output, errors = run_audit(
        healthy, collapsed, "--window", 64, "--output", html, "--json", file
    )
    assert (status, errors) == (1, "")
    alone = [run_audit(log, "--window", 64)[1] for log in (healthy, collapsed)]
    assert output == f"{healthy}\n\n{alone[0]}\n\n{collapsed}\n\n{alone[1]}\n\n"
    runs = json.loads(file.read_text())["runs"]
    assert [(run["log"], run["num_rollouts"]) for run in runs] == [
        (str(healthy), 128),
        (str(collapsed), 192),
    ]
    assert [any(alarm["fired"] for alarm in run["alarms"]) for run in runs] == [False, True]
    assert html.read_text().count("<section") == 2
    assert run_audit(healthy, healthy, "--window", 64) == (0, alone[0], "")


def test_files_of_one_run_are_one_log(
    run_audit: Audit, healthy: Path, collapsed: Path, tmp_path: Path
) -> None:
    files = sorted(healthy.iterdir())
    _, whole, _ = run_audit(healthy, "--window", 64)
    for given in (files, files[::-1], [healthy, files[0]]):
        assert run_audit(*given, "--window", 64) == (0, whole, "")
    # Copies under names of the user's own are logs of their own, also side by side.
    copies = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for copy, log in zip(copies, (files[0], next(collapsed.iterdir())), strict=True):
        copy.write_bytes(log.read_bytes())
    status, output, _ = run_audit(*copies, "--window", 64)
    assert status == 1
    lines = output.splitlines()
    assert [line for line in lines if line.endswith("; windows of 64")] == [
        "64 rollouts; windows of 64",
        "192 rollouts; windows of 64",
    ]
    assert all(str(copy) in lines for copy in copies)


def test_one_log_that_cannot_be_read_is_an_error_for_all(
    run_audit: Audit, healthy: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    html = tmp_path / "a.html"
    status, output, errors = run_audit(healthy, broken, "--output", html)
    assert (status, output) == (2, "")
    assert errors.startswith(f"error: {broken}:1: not a decision: ")
    assert not html.exists()


def test_a_short_log_is_no_error(run_audit: Audit, healthy: Path) -> None:
    status, output, _ = run_audit(healthy)
    assert status == 0
    assert "too short to compare with the run's start: that takes 512 rollouts" in output


def test_an_incomplete_last_line_is_skipped(run_audit: Audit, healthy: Path) -> None:
    last = healthy / "rewards-1-1-00002.jsonl"
    last.write_bytes(last.read_bytes()[:-20])
    status, output, errors = run_audit(healthy, "--window", "32")
    assert status == 0
    assert "127 rollouts" in output
    assert errors == f"warning: {last}:64: skipped an incomplete last line\n"


def test_mistakes_are_one_line(
    run_audit: Audit,
    healthy: Path,
    tmp_path: Path,
    decision: Callable[..., Decision],
    write_log: WriteLog,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    evaluated = write_log(
        tmp_path / "eval.jsonl", [decision(label={"answer": "5", "mode": "eval"})]
    )
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    page = tmp_path / "page.md"
    page.write_text("nothing")
    (log, _) = sorted(healthy.iterdir())
    cases: list[tuple[list[object], str]] = [
        ([tmp_path / "none"], "none: no such file or folder"),
        ([empty], "empty: no .jsonl file in it"),
        ([broken], "broken.jsonl:1: not a decision: "),
        ([evaluated], "eval.jsonl: no rollout of training: all 1 are of mode eval"),
        ([healthy, "--json", log], "would replace the log"),
        ([healthy, "--output", tmp_path], "directory"),
        (["--update", page], "page.md: needs two lines, <!--"),
    ]
    for arguments, message in cases:
        status, output, errors = run_audit(*arguments)
        assert (status, output) == (2, ""), arguments
        assert errors.startswith("error: ")
        assert message in errors
        assert errors.count("\n") == 1
    assert sorted(healthy.iterdir())[0].read_text().count("\n") == 64


@pytest.mark.parametrize(
    "arguments",
    [[], ["a", "--update", "b"], ["a", "--window", "12"], ["a", "--window", "0"],
     ["a", "--window", "x"], ["a", "--wat"]],
)  # fmt: skip
def test_wrong_arguments_are_an_error(
    arguments: list[str], run_audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_audit(*arguments)
    assert exit_.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_what_a_log_names_cannot_act_on_the_terminal(
    run_audit: Audit, decision: Callable[..., Decision], tmp_path: Path, write_log: WriteLog
) -> None:
    bad = "\x1b[2J\u202e"
    one = replace(decision(), time=bad, policy_version=bad, terms={bad: 0.1})
    other = replace(one, terms={bad: 0.9}, num_response_tokens=1)
    log = write_log(tmp_path / "a.jsonl", [one] * 64 + [other] * 128)
    status, output, _ = run_audit(log, "--window", 64)
    assert status == 1
    assert all(line.isprintable() for line in output.splitlines())


def test_help_loads_no_library() -> None:
    code = (
        "import sys\nfrom sar.__main__ import main\n"
        "try:\n    main(['audit', '--help'])\nexcept SystemExit:\n    pass\n"
        "print({'pydantic', 'numpy', 'torch', 'transformers', 'regex'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--output FILE.html" in shown
    assert shown.splitlines()[-1] == "set()"


def test_an_audit_loads_no_model_library(healthy: Path) -> None:
    code = (
        f"import sys\nfrom sar.__main__ import main\nmain(['audit', {str(healthy)!r}])\n"
        "print({'torch', 'transformers', 'sympy'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1] == "set()"
