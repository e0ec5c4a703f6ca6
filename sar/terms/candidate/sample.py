"""What a candidate gets: one rollout as a dictionary of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypedDict

from sar.terms.base import Sample

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "str, as the policy saw it, chat template applied",
        "response": "str, what the policy wrote, without special tokens",
        "label": "str, the right answer",
        "correct": "bool, True if the grader found the response right",
        "response_tokens": "int, number of tokens of the response",
        "ppl_qa": "float, perplexity of the response after its prompt, 1 to 1e30",
        "ppl_a": "float, perplexity of the response after an empty question, 1 to 1e30",
        "sar": "float, 1 - ppl_qa / ppl_a, at least -1: how much the prompt explains the response",
    }
)
"""The keys of a `PlainSample`, and what stands there. Also for the prompt of a language model."""


class PlainSample(TypedDict):
    """One rollout, as a candidate sees it."""

    prompt: str
    response: str
    label: str
    correct: bool
    response_tokens: int
    ppl_qa: float
    ppl_a: float
    sar: float


def make_plain(sample: Sample) -> PlainSample:
    """A rollout as a candidate sees it."""
    likelihood = sample.likelihood
    return {
        "prompt": sample.prompt,
        "response": sample.response,
        "label": sample.label.answer,
        "correct": sample.is_correct,
        "response_tokens": sample.num_tokens,
        "ppl_qa": likelihood.ppl_qa,
        "ppl_a": likelihood.ppl_a,
        "sar": likelihood.sar,
    }
