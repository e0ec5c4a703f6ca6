"""Who may import whom; read from the sources, so that nothing has to be installed or run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]

# What each package may import of those in this repository.
MAY_IMPORT = {
    "sar": {"sar"},
    "reward_server": {"reward_server", "sar"},
    "eval": {"eval", "sar"},
    # Training problems are those `eval` does not evaluate on. The training demo starts servers.
    "recipes": {"recipes", "sar", "eval", "reward_server.launch"},
}
OURS = {*MAY_IMPORT, "performance", "tests"}
# What only scorers import.
TRANSFORMERS_INSIDE = "sar/scoring/packed_attention.py"
TORCH_FREE = {
    f"reward_server/{name}.py"
    for name in (
        "config",
        "errors",
        "http/app",
        "http/schema",
        "observe/reward_log",
        "pipeline/batcher",
        "pipeline/service",
        "weights/checkpoints",
        "weights/engines",
        "weights/policy",
    )
}
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in MAY_IMPORT
    for path in ROOT.glob(f"{package}/**/*.py")
)


def broken_rules(path: str, source: str) -> list[str]:
    """What a file imports and may not, one line each."""
    package = path.split("/")[0]
    broken = []
    for module, at_import in imports(path, source):
        top = module.split(".")[0]
        allowed = any(f"{module}.".startswith(f"{name}.") for name in MAY_IMPORT[package])
        if top in OURS and not allowed:
            broken.append(f"{package} may not import {top}")
        if top == "flask" and path != "reward_server/http/app.py":
            broken.append("flask belongs to reward_server/http/app.py")
        if top == "torch" and path in TORCH_FREE:
            broken.append("no torch here")
        if top in ("openrlhf", "deepspeed") and package != "recipes":
            broken.append(f"{top} is never imported at run time")
        heavy_is_fine = path.startswith("sar/models/") or path == TRANSFORMERS_INSIDE
        if top in ("transformers", "vllm") and at_import and not heavy_is_fine:
            broken.append(f"{top} is imported where it is used, not at the top")
        if module == "sar.grading.processes.worker" and at_import:
            broken.append("sar.grading.processes.worker is for grader processes only")
    return broken


def imports(path: str, source: str) -> Iterator[tuple[str, bool]]:
    """Absolute names of what a file imports, and whether importing the file imports them.

    `from a import b` counts as `a` and `a.b`: b may be a module.
    """

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = PurePosixPath(path).parts[: -node.level or None] if node.level else ()
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield module, at_import
            yield from ((f"{module}.{alias.name}", at_import) for alias in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            at_import = False
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_import)

    yield from visit(ast.parse(source), True)


def test_there_are_sources() -> None:
    assert {"sar/perplexity.py", "reward_server/http/app.py"} <= set(SOURCES)


@pytest.mark.parametrize("path", SOURCES)
def test_a_file_imports_what_it_may(path) -> None:
    assert broken_rules(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("sar/x.py", "import reward_server", "sar may not import reward_server"),
        ("sar/x.py", "def f():\n from eval.tasks import y", "sar may not import eval"),
        ("sar/grading/x.py", "from ...eval import x", "sar may not import eval"),
        ("sar/x.py", "import tests.helpers", "sar may not import tests"),
        ("reward_server/x.py", "import eval.x", "reward_server may not import eval"),
        ("eval/x.py", "from reward_server.http.app import f", "eval may not import reward_server"),
        ("recipes/x.py", "from reward_server import app", "recipes may not import reward_server"),
        ("reward_server/pipeline/service.py", "from flask import Flask", "flask belongs to"),
        ("sar/x.py", "class C:\n def f(self):\n  import flask.json", "flask belongs to"),
        ("reward_server/pipeline/batcher.py", "def f():\n import torch.nn", "no torch here"),
        ("sar/x.py", "def f():\n import openrlhf.cli", "openrlhf is never"),
        ("eval/x.py", "from deepspeed import zero", "deepspeed is never"),
        ("sar/scoring/x.py", "from transformers import AutoTokenizer", "where it is used"),
        ("eval/x.py", "try:\n import vllm\nexcept ImportError:\n pass", "where it is used"),
        ("sar/x.py", "class C:\n import transformers", "where it is used"),
        ("sar/x.py", "import sar.grading.processes.worker", "grader processes only"),
        ("sar/x.py", "from sar.grading.processes import pool, worker", "grader processes only"),
        ("sar/grading/processes/x.py", "from . import worker", "grader processes only"),
        ("sar/grading/processes/x.py", "from .worker import run", "grader processes only"),
    ],
)
def test_a_broken_rule_is_found(path, source, complaint) -> None:
    assert any(complaint in line for line in broken_rules(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("reward_server/http/app.py", "from flask import Flask\nimport sar.reward"),
        ("sar/grading/processes/pool.py", "def f():\n import sar.grading.processes.worker"),
        ("sar/scoring/x.py", "import torch\ndef f():\n from transformers import AutoTokenizer"),
        ("sar/models/train_x.py", "import transformers"),
        ("recipes/x.py", "import openrlhf\nfrom sar.prompts import INSTRUCTION"),
        ("sar/grading/x.py", "from .label import Label\nfrom ..prompts import INSTRUCTION"),
        ("eval/x.py", "import evaluate, sarcasm"),
    ],
)
def test_what_is_allowed_is_not_found(path, source) -> None:
    assert broken_rules(path, source) == []


def test_what_the_server_imports_first_brings_nothing_heavy() -> None:
    """The same for what is imported by what is imported."""
    names = [path.removesuffix(".py").replace("/", ".") for path in sorted(TORCH_FREE)]
    script = (
        f"import {', '.join(names)}, sar.grading.processes.pool, sys\n"
        "print(*({'torch', 'transformers', 'sympy', 'math_verify'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert loaded.split() == []
