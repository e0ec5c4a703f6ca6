"""The launcher's --help, its models file, and what it needs to run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
MODELS = ("Gemma-3-1B", "Phi-3.5-mini", "Qwen3-1.7B-Base", "Qwen3-4B-Base")
MODEL_SETTINGS = [
    "MODEL_PATH", "PLAIN_COPY", "ZERO_STAGE", "TENSOR_PARALLEL", "VLLM_MEMORY", "TOKENS_PER_GPU",
]  # fmt: skip
SETTINGS = [
    "REWARD_URLS", "SAR_WEIGHT", "REWARD", "ON_POLICY", "SERVER_MODEL", "DATA", "OUTPUT",
    "NUM_NODES", "GPUS_PER_NODE", "RAY_ADDRESS", "STEPS", "N_SAMPLES", "SAVE_STEPS", "EVAL_STEPS",
    "SEED", "PYTHON", "SYSTEM_PROMPT", *MODEL_SETTINGS,
]  # fmt: skip


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_help_lists_the_papers_models_and_all_settings(algorithm: str, flag: str) -> None:
    """With each setting's help text and default."""
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # has a `python`
    done = subprocess.run(
        [str(RECIPES / f"{algorithm}.sh"), flag], env=environ, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Models: " + ", ".join(MODELS) + "\n" in done.stdout
    paragraphs = done.stdout.partition("Settings (environment variables):\n")[2]
    assert re.findall(r"^  ([A-Z_]+) +[A-Z1]", paragraphs, re.MULTILINE) == SETTINGS
    assert "folder or hub id" in paragraphs
    assert "Default: http://127.0.0.1:5000/get_reward" in paragraphs


def test_the_launcher_needs_the_standard_library_only(tmp_path: Path) -> None:
    """Runs without site-packages: a training environment may have openrlhf only."""
    (tmp_path / "train.jsonl").write_text("{}\n" * 23_000)
    (tmp_path / "eval.jsonl").write_text("{}\n")
    command = [sys.executable, "-S", str(RECIPES / "launch"), "grpo", MODELS[0], "--dry-run"]
    done = subprocess.run(command, env={"DATA": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_model_sets_what_differs_between_models() -> None:
    models = tomllib.loads((RECIPES / "launch/models.toml").read_text())
    assert tuple(models) == MODELS
    assert {tuple(model) for model in models.values()} == {tuple(MODEL_SETTINGS)}


def test_shellcheck_finds_nothing() -> None:
    beside = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    shellcheck = beside or shutil.which("shellcheck")
    assert shellcheck, "shellcheck is not installed: pip install -e '.[dev]'"
    scripts = [*RECIPES.glob("*.sh"), ROOT / ".ci/run"]
    done = subprocess.run(
        [shellcheck, "--external-sources", *map(str, scripts)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
