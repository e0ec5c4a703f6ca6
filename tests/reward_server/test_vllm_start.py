"""The start of a server with `--backend vllm`, where a stand-in takes vLLM's place."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # they start servers
ROOT = Path(__file__).parents[2]


def serve(*arguments: str, path: Path) -> tuple[int, str, float]:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "reward_server", "--port", "0", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return done.returncode, done.stderr, time.monotonic() - start


def test_the_server_says_in_a_line_and_at_once_that_vllm_is_missing(tmp_path: Path) -> None:
    # As if there were none, also where there is one.
    (tmp_path / "vllm.py").write_text("raise ModuleNotFoundError('no vllm', name='vllm')\n")
    code, log, took_s = serve("--backend", "vllm", path=tmp_path)
    assert code == 1
    assert "Traceback" not in log
    (error,) = [line for line in log.splitlines() if "ERROR" in line]
    assert "pip install -c constraints.txt -e '.[vllm]'" in error
    assert took_s < 60  # about one second on an idle machine; loading torch takes several


def test_the_server_hands_its_settings_to_vllm(tmp_path: Path) -> None:
    """The stand-in ends the start with what it was given."""
    (tmp_path / "vllm.py").write_text(
        "SamplingParams = dict\n"
        "def LLM(**given):\n"
        "    raise RuntimeError(f'given {sorted(given.items())}')\n"
    )
    arguments = ["--tensor-parallel-size", "2", "--dtype", "float16", "--max-batch-tokens", "100"]
    code, log, _ = serve("--backend", "vllm", *arguments, path=tmp_path)
    assert code == 1
    for words in (
        "('tensor_parallel_size', 2)",
        "('dtype', 'float16')",
        "('max_num_batched_tokens', 100)",
        "('trust_remote_code', False)",
        "sar/models/demo')",
    ):
        assert words in log
