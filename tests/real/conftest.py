"""Fixtures of the tests with a real language model: SmolLM2-135M-Instruct."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMOLLM2 = ROOT / "build" / "real" / "smollm2"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct, as `python -m sar.models.smollm2` writes it."""
    if not (SMOLLM2 / "config.json").is_file():
        missing = f"no SmolLM2: python -m sar.models.smollm2 {SMOLLM2.relative_to(ROOT)}"
        if os.environ.get("REAL_TEST"):
            pytest.fail(missing)
        pytest.skip(missing)
    return SMOLLM2
