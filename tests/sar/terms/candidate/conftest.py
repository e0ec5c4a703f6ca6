"""Rollouts for candidates."""

from __future__ import annotations

import pytest

from sar.terms.candidate.batch import ProbeBatch, load_batch
from sar.terms.candidate.sample import PlainSample


@pytest.fixture
def sample() -> PlainSample:
    """A right response."""
    return {
        "prompt": "Question: What is 2 + 3?",
        "response": "2 + 3 = 5. Answer: 5",
        "label": "5",
        "correct": True,
        "response_tokens": 12,
        "ppl_qa": 1.5,
        "ppl_a": 2.0,
        "sar": 0.25,
    }


@pytest.fixture(scope="session")
def batch() -> ProbeBatch:
    """The battery on two bundled problems, scored by the bundled model."""
    return load_batch(2)
