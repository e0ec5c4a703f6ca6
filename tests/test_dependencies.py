"""constraints.txt fits every extra.

uv resolves from metadata, and downloads no wheel. Without a network these tests are skipped, but
not in CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PLATFORM = ("--python-platform", "x86_64-unknown-linux-gnu", "--python-version", "3.11")
# Those that are installed together: to train, `train` and `eval`.
TOGETHER = [[extra] for extra in EXTRAS] + [["train", "eval"]]


def run(command: list[str], **env: str) -> None:
    """Runs uv. Fails if the versions contradict each other, skips if the index is not reached."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    assert "No solution found" not in done.stderr, done.stderr
    message = f"{' '.join(command)}: {done.stderr[-800:]}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.mark.slow
@pytest.mark.parametrize("extras", TOGETHER, ids=",".join)
def test_every_extra_can_be_installed_with_the_constraints(
    extras: list[str], tmp_path: Path
) -> None:
    wanted = [f"--extra={extra}" for extra in extras]
    files = ["--constraints", "constraints.txt", "--output-file", str(tmp_path / "resolved.txt")]
    run([str(UV), "pip", "compile", "--quiet", "pyproject.toml", *wanted, *PLATFORM, *files])
