"""Runs `python -m sar grade` and `rescore`, and writes what they read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sar.__main__ import main
from sar.decision import Decision

ROOT = Path(__file__).parents[3]
Rescore = Callable[..., tuple[int, str, str]]
WriteLog = Callable[[Path, Sequence[Decision]], Path]


@pytest.fixture
def grade(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command with these arguments; returns its status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["grade", "--grader-workers", "2", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def grade_as_program() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """The same in a process of its own, with text on standard input and more environment."""

    def run(
        *arguments: object, text: bytes = b"", **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "sar", "grade", *map(str, arguments)],
            cwd=ROOT,
            input=text,
            capture_output=True,
            timeout=60,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture(scope="session")
def write_rows() -> Callable[[Path, Sequence[object]], Path]:
    """Writes a file of rows, of which a string stands for a line as it is."""

    def write(path: Path, rows: Sequence[object]) -> Path:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def rescore(capsys: pytest.CaptureFixture[str]) -> Rescore:
    """Runs the command with these arguments; returns its status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["rescore", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def write_log() -> WriteLog:
    """Writes a reward log of these decisions; returns its path."""

    def write(path: Path, decisions: Sequence[Decision]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(d.to_json() + "\n" for d in decisions), encoding="utf-8")
        return path

    return write
