"""What the tests of the reward search share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.reward_search.settings import SearchSettings


def _load(name: str) -> Any:
    """A module of this folder. Nothing imports from tests, which is no package."""
    file = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"reward_search_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def standin() -> Any:
    """`standin.py`: searches whose training runs are computed."""
    return _load("standin")


@pytest.fixture
def small() -> SearchSettings:
    """A search of twelve candidates."""
    return SearchSettings("grammar", rounds=3, per_round=4, eval_problems=60, num_seeds=2)
