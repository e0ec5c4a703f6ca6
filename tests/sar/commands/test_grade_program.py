"""`python -m sar grade --file` as a program: terminal, pipe, interruption, permissions, memory."""

from __future__ import annotations

import inspect
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
Grade = Callable[..., tuple[int, str, str]]
GradeAsProgram = Callable[..., subprocess.CompletedProcess[bytes]]
WriteRows = Callable[[Path, Sequence[object]], Path]


def test_the_columns_are_aligned_and_fit_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grade: Grade, write_rows: WriteRows
) -> None:
    rows = [
        {"response": "The answer is " + "word " * 40, "label": "long words " * 30},
        {"response": "It is 5.", "label": "a long solution " * 30 + "\n#### 5"},
        {"response": "x", "label": "5"},
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    for width in (80, 132):
        monkeypatch.setenv("COLUMNS", str(width))
        _, report, _ = grade("--file", file)
        lines = report.partition("\n\n")[0].splitlines()
        assert max(map(len, lines)) <= width
        place = lines[0].index("where")
        assert all(line[place - 1] == " " and line[place] != " " for line in lines)
        assert "## 5 " in lines[2]  # the end of the label is its answer


def test_text_from_a_model_never_reaches_the_terminal_raw(
    tmp_path: Path, grade: Grade, write_rows: WriteRows
) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"
    answer = f"The answer is {evil}red"
    file = write_rows(
        tmp_path / "rows.jsonl",
        [
            {"response": answer, "label": "blue"},
            {"response": answer, "label": f"blue{evil}"},
            {evil: 1},
            {"response": "x", "label": {evil: "x"}},
            {"response": "\ud800 is \ud800", "label": "\ud800"},
        ],
    )
    shown = [grade("--file", file)]
    shown += [grade(answer, "--label", label, "--explain") for label in ("blue", f"blue{evil}")]
    for _, report, errors in shown:
        assert all(line.isprintable() for line in (report + errors).splitlines())
    assert r"\x1b" in shown[-1][1]  # the label is shown whole


def test_any_encoding_of_the_terminal_will_do(
    tmp_path: Path, grade_as_program: GradeAsProgram, write_rows: WriteRows
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"response": "答案是 \\boxed{五}", "label": "été"}])
    done = grade_as_program("--file", file, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u4e94" in done.stdout


def test_only_this_user_can_read_the_output(
    tmp_path: Path, grade: Grade, write_rows: WriteRows
) -> None:
    """It holds answers, perhaps of a reward log."""
    file = write_rows(tmp_path / "rows.jsonl", [{"response": "5", "label": "5"}])
    assert grade("--file", file, "--output", tmp_path / "o.jsonl")[0] == 0
    assert (tmp_path / "o.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_interrupted_command_writes_no_output(tmp_path: Path, write_rows: WriteRows) -> None:
    file = write_rows(tmp_path / "r.jsonl", [{"response": "It is 5.", "label": "5"}] * 20_000)
    options = ["--file", str(file), "--output", str(tmp_path / "out.jsonl")]
    command = [sys.executable, "-m", "sar", "grade", *options]
    # A process that a shell runs in the background ignores SIGINT, and so would this command.
    heeding = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    heeding += f"os.execv({sys.executable!r}, {command!r})"
    started = [sys.executable, "-c", heeding]
    # coverage's tracer now and then swallows the KeyboardInterrupt (3 of 8 runs).
    environ = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    with subprocess.Popen(
        started, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as one:
        assert one.stdout is not None
        one.stdout.readline()
        one.send_signal(signal.SIGINT)
        _, errors = one.communicate(timeout=60)
    assert (one.returncode, errors) == (130, b"stopped\n")
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_that_goes_away_is_no_crash(tmp_path: Path, write_rows: WriteRows) -> None:
    file = write_rows(tmp_path / "r.jsonl", [{"response": "It is 5.", "label": "5"}] * 2000)
    command = [sys.executable, "-m", "sar", "grade", "--file", str(file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as one:
        assert one.stdout is not None
        assert one.stderr is not None
        assert one.stdout.readline().split()[0] == b"line"
        one.stdout.close()
        assert one.stderr.read() == b""
        assert one.wait(timeout=60) == 1


def test_progress_is_shown_on_a_terminal_only(
    tmp_path: Path, grade_as_program: GradeAsProgram, write_rows: WriteRows
) -> None:
    file = write_rows(tmp_path / "r.jsonl", [{"response": "It is 5.", "label": "5"}])
    assert grade_as_program("--file", file).stderr == b""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "sar", "grade", "--file", str(file)]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    assert "grading" in os.read(ours, 65536).decode()
    os.close(ours)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """2,000 rows of 100 kB, 200 MB: only what is read ahead is in memory."""
    line = json.dumps({"response": "x" * 100_000 + " It is 5.", "label": "5"}) + "\n"
    script = inspect.cleandoc(
        r"""
        import re, sys
        from pathlib import Path
        from sar.__main__ import main
        assert main(["grade", "--grader-workers", "2", "--file", sys.argv[1]]) == 0
        # Not getrusage, which starts from the parent's peak.
        print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
        """
    )
    peaks = []
    for num_lines in (100, 2000):
        file = tmp_path / f"{num_lines}.jsonl"
        with file.open("w") as rows:
            rows.writelines(line for _ in range(num_lines))
        done = subprocess.run(
            [sys.executable, "-c", script, str(file)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        peaks.append(int(done.stdout.split()[-1]))
        file.unlink()
    print(f"peak kB for 100 and 2,000 rows: {peaks}")
    assert peaks[1] - peaks[0] < 20_000
