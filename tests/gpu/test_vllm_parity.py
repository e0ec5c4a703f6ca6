"""The vLLM scorer and the transformers scorer give the same log-probabilities.

pip install -c constraints.txt -e '.[dev,vllm]' && pytest tests/gpu/test_vllm_parity.py
"""

from __future__ import annotations

import importlib.util
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sar.models.problems import generate
from sar.perplexity import mean_nll
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt
from sar.scoring import TokenSequence
from sar.scoring.transformers_scorer import TransformersScorer
from sar.scoring.vllm_scorer import VllmScorer

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="needs vLLM: pip install -e '.[vllm]'"
)

# In nats. Both scorers compute in bfloat16, with different kernels. On this model bfloat16 differs
# from float32 by up to 0.007 in a response's mean, and by up to 0.023 for a single token.
TOLERANCE = 2e-2
TOLERANCE_ONE_TOKEN = 1e-1


@pytest.fixture(scope="module")
def sequences(bundled_tokenizer: Any) -> list[TokenSequence]:
    """Short and long responses to the right or another problem, after a prompt or one token."""
    made = []
    problems = list(islice(generate(7, held_out=True), 24))
    for problem, other in zip(problems, problems[1:] + problems[:1], strict=True):
        prompt = render_prompt(bundled_tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        context_ids = bundled_tokenizer.encode(prompt)
        for response in (problem.concise, problem.padded, other.concise):
            response_ids = bundled_tokenizer.encode(response)
            made.append(TokenSequence(context_ids, response_ids))
            made.append(TokenSequence(context_ids[-1:], response_ids))
    return made


@pytest.fixture(scope="module")
def vllm_scorer(bundled_model_path: Path) -> VllmScorer:
    # Below the length of the longest sequences, so that vLLM prefills them in chunks.
    return VllmScorer.from_pretrained(
        str(bundled_model_path), dtype="bfloat16", max_batch_tokens=128
    )


@pytest.fixture(scope="module")
def transformers_scorer(bundled_model_path: Path) -> TransformersScorer:
    return TransformersScorer.from_pretrained(
        str(bundled_model_path), device="cuda", dtype="bfloat16", max_batch_tokens=4096
    )


def test_mean_nll_equals_that_of_transformers(
    sequences: list[TokenSequence],
    transformers_scorer: TransformersScorer,
    vllm_scorer: VllmScorer,
) -> None:
    assert max(map(len, sequences)) > 128
    expected = list(map(mean_nll, transformers_scorer.response_logprobs(sequences)))
    got = list(map(mean_nll, vllm_scorer.response_logprobs(sequences)))
    assert np.ptp(expected) > 1, "similar responses would hide mistakes"
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


def test_responses_of_one_token(
    sequences: list[TokenSequence],
    transformers_scorer: TransformersScorer,
    vllm_scorer: VllmScorer,
) -> None:
    short = [TokenSequence(s.context_ids, s.response_ids[:1]) for s in sequences]
    expected = np.concatenate(transformers_scorer.response_logprobs(short))
    got = np.concatenate(vllm_scorer.response_logprobs(short))
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE_ONE_TOKEN)


def test_the_order_of_sequences_does_not_matter(
    sequences: list[TokenSequence], vllm_scorer: VllmScorer
) -> None:
    forwards = vllm_scorer.response_logprobs(sequences)
    backwards = vllm_scorer.response_logprobs(sequences[::-1])[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert mean_nll(one) == pytest.approx(mean_nll(other), abs=TOLERANCE)


def test_the_longest_allowed_sequence(vllm_scorer: VllmScorer) -> None:
    limit = vllm_scorer.max_context_tokens
    assert limit == 1023  # the bundled model's 1,024, minus the token that vLLM generates
    (logprobs,) = vllm_scorer.response_logprobs([TokenSequence([5], [6] * (limit - 1))])
    assert logprobs.shape == (limit - 1,)
    with pytest.raises(Exception, match="length"):  # vLLM's own VLLMValidationError
        vllm_scorer.response_logprobs([TokenSequence([5], [6] * limit)])
