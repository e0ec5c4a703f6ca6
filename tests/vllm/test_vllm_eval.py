"""`python -m eval run` on vLLM itself: the responses are those of the transformers backend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eval.records import iter_records

ROOT = Path(__file__).parents[2]
ON_CUDA = torch.cuda.is_available()
NUM_PROBLEMS = 40
# Greedy choices between two nearly equal tokens differ with the kernels of bfloat16.
MIN_EQUAL = 0.8 if ON_CUDA else 1.0


def run_eval(output: Path, *flags: str) -> dict[str, str]:
    """Evaluates the bundled model greedily. Returns the responses by problem."""
    arguments = ["--benchmarks", "demo", "--limit", str(NUM_PROBLEMS), "--output", str(output)]
    dtype = "bfloat16" if ON_CUDA else "float32"
    subprocess.run(
        [sys.executable, "-m", "eval", "run", *arguments, "--dtype", dtype, *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    records = list(iter_records(output / "demo.jsonl"))
    assert not [record.error for record in records if record.error]
    return {record.id: record.response or "" for record in records}


def test_greedy_responses_equal_those_of_transformers(tmp_path: Path) -> None:
    got = run_eval(tmp_path / "vllm", "--backend", "vllm")
    expected = run_eval(tmp_path / "transformers")
    assert got.keys() == expected.keys()
    assert len(set(expected.values())) > NUM_PROBLEMS // 2
    num_equal = sum(got[problem] == response for problem, response in expected.items())
    print(f"{num_equal} of {NUM_PROBLEMS} responses are the same")
    assert num_equal >= MIN_EQUAL * NUM_PROBLEMS


def test_a_prompt_that_is_too_long_is_an_error_of_its_own(bundled_model_path: Path) -> None:
    """In a process of its own: vLLM's engine stays in the process that starts it."""
    program = (
        "import sys\n"
        "from eval.backends.base import Request, Sampling\n"
        "from eval.backends.vllm_backend import VllmBackend\n"
        "backend = VllmBackend.from_pretrained(sys.argv[1], sampling=Sampling(0.0, 1.0, 8))\n"
        "texts = ['2 + 3 =', '? ' * 2000, '3 + 4 =']\n"
        "requests = [Request(i, '', '', text, seed=i) for i, text in enumerate(texts)]\n"
        "errors = {c.request.key: c.error for c in backend.generate(requests)}\n"
        "assert (errors[0], errors[2]) == (None, None), errors\n"
        "assert 'maximum model length' in errors[1], errors\n"
        "print(backend.description.details)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundled_model_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"'num_gpus': {int(ON_CUDA)}" in done.stdout


@pytest.fixture(autouse=True)
def _with_vllm(vllm_installed: None) -> None:
    """Each test needs vLLM."""
