"""`python -m sar`: it finds the command, and the output's reader may go away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sar.__main__ import main
from sar.decision import Decision

ROOT = Path(__file__).parents[2]


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert "rescore " in shown
    assert "grade " in shown


@pytest.mark.parametrize("arguments", [[], ["regrade"]])
def test_a_wrong_command_is_an_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "rescore" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_crash(
    decision: Callable[..., Decision], tmp_path: Path
) -> None:
    log = tmp_path / "a.jsonl"
    log.write_text(decision().to_json() + "\n")
    command = [sys.executable, "-m", "sar", "rescore", str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""
        assert run.wait(timeout=600) == 1
