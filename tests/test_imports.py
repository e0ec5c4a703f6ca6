"""Imports that `make lint` cannot judge: what a module loads together with its own imports.

Who may import whom is configuration of import-linter and ruff, in pyproject.toml.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# They run models with transformers, and are imported when a model is about to be loaded.
LOAD_TRANSFORMERS = {
    "sar.scoring.packed_attention",
    "sar.scoring.transformers_scorer",
    "eval.backends.transformers_backend",
}
# Scripts that made the bundled model; trainers load the agents.
SCRIPTS = {"sar.models.demo_tokenizer", "sar.models.evaluate_demo", "sar.models.train_demo"}
AGENTS = {"recipes.openrlhf_agent", "recipes.adapters.molt"}
# No package: a folder in the PYTHONPATH of OpenRLHF on a CPU.
SHIM = "recipes/cpu_demo/shim"


def module_names(*packages: str) -> set[str]:
    """Every module of some packages, as one would import it."""
    paths = [
        path
        for package in packages
        for path in (ROOT / package).glob("**/*.py")
        if not path.is_relative_to(ROOT / SHIM)
    ]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths}
    return {name.removesuffix(".__init__") for name in names}


def loaded_by(modules: set[str], heavy: set[str]) -> set[str]:
    """Which of the heavy modules a new process has loaded after it imported `modules`."""
    script = (
        "import importlib, sys\n"
        f"for name in {sorted(modules)}: importlib.import_module(name)\n"
        f"print(*({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        # The server listens, and answers "not ready", before it loads any of this.
        (
            module_names("reward_server") | {"sar.grading.processes.pool"},
            {"torch", "transformers", "sympy", "math_verify", "ray"},
        ),
        # `--help` of every command is instant.
        (
            module_names("sar", "eval", "recipes") - LOAD_TRANSFORMERS - SCRIPTS - AGENTS,
            {"transformers", "vllm", "ray", "openrlhf", "deepspeed"},
        ),
    ],
    ids=["server", "others"],
)
def test_importing_loads_nothing_heavy(modules: set[str], heavy: set[str]) -> None:
    assert len(modules) > 20
    assert loaded_by(modules, heavy) == set()


def test_what_is_loaded_is_found() -> None:
    assert loaded_by({"sar.grading.processes.worker"}, {"sympy", "torch"}) == {"sympy"}
