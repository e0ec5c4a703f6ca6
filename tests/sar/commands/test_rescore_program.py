"""`python -m sar rescore` as a program: what it loads, its progress bar, its memory."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sar.decision import Decision

if TYPE_CHECKING:
    from tests.sar.commands.conftest import WriteLog

ROOT = Path(__file__).parents[3]


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


def test_a_terminal_gets_a_progress_bar(
    decision: Callable[..., Decision], tmp_path: Path, write_log: WriteLog
) -> None:
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


@pytest.mark.slow
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
