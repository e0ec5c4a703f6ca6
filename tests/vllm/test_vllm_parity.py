"""The vLLM scorer and the transformers scorer give the same log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sar.models.problems import generate
from sar.perplexity import mean_nll, self_aligned_reward
from sar.prompts import DEFAULT_SYSTEM_PROMPT, render_prompt
from sar.scoring import TokenSequence
from sar.scoring.transformers_scorer import TransformersScorer
from sar.scoring.vllm_process import VllmProcess
from sar.tokenization import RolloutTokenizer

# In nats. In bfloat16 the kernels differ: there the bundled model is off from float32 by up to
# 0.007 in a response's mean, and by up to 0.023 for a single token.
TOLERANCE, TOLERANCE_ONE_TOKEN = (2e-2, 1e-1) if torch.cuda.is_available() else (1e-4, 1e-4)
NUM_ROLLOUTS = 64
# Beside the repository, not in it.
ROLLOUTS = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_rollouts.jsonl"


@pytest.fixture(scope="module")
def sequences(bundled_tokenizer: Any) -> list[TokenSequence]:
    """Short and long responses to the right or another problem, after a prompt or one token."""
    made = []
    problems = list(islice(generate(7, held_out=True), 12))
    for problem, other in zip(problems, problems[1:] + problems[:1], strict=True):
        prompt = render_prompt(bundled_tokenizer, problem.question, DEFAULT_SYSTEM_PROMPT)
        context_ids = bundled_tokenizer.encode(prompt)
        for response in (problem.concise, problem.padded, other.concise):
            response_ids = bundled_tokenizer.encode(response)
            made.append(TokenSequence(context_ids, response_ids))
            made.append(TokenSequence(context_ids[-1:], response_ids))
    return made


@pytest.fixture(scope="module")
def transformers_scorer(
    load_transformers: Callable[[Path], TransformersScorer], bundled_model_path: Path
) -> TransformersScorer:
    return load_transformers(bundled_model_path)


def test_mean_nll_equals_that_of_transformers(
    sequences: list[TokenSequence],
    transformers_scorer: TransformersScorer,
    vllm_scorer: VllmProcess,
) -> None:
    assert max(map(len, sequences)) > 128
    expected = list(map(mean_nll, transformers_scorer.response_logprobs(sequences)))
    got = list(map(mean_nll, vllm_scorer.response_logprobs(sequences)))
    assert np.ptp(expected) > 1, "similar responses would hide mistakes"
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


def test_responses_of_one_token(
    sequences: list[TokenSequence],
    transformers_scorer: TransformersScorer,
    vllm_scorer: VllmProcess,
) -> None:
    short = [TokenSequence(s.context_ids, s.response_ids[:1]) for s in sequences]
    expected = np.concatenate(transformers_scorer.response_logprobs(short))
    got = np.concatenate(vllm_scorer.response_logprobs(short))
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE_ONE_TOKEN)


def test_the_order_of_sequences_does_not_matter(
    sequences: list[TokenSequence], vllm_scorer: VllmProcess
) -> None:
    forwards = vllm_scorer.response_logprobs(sequences)
    backwards = vllm_scorer.response_logprobs(sequences[::-1])[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert mean_nll(one) == pytest.approx(mean_nll(other), abs=TOLERANCE)


def test_the_longest_allowed_sequence(vllm_scorer: VllmProcess) -> None:
    limit = vllm_scorer.max_context_tokens
    assert limit == 1023  # the bundled model's 1,024, minus the token that vLLM generates
    (logprobs,) = vllm_scorer.response_logprobs([TokenSequence([5], [6] * (limit - 1))])
    assert logprobs.shape == (limit - 1,)
    with pytest.raises(RuntimeError, match=r"VLLMValidationError: .* length"):
        vllm_scorer.response_logprobs([TokenSequence([5], [6] * limit)])
    assert vllm_scorer.response_logprobs([TokenSequence([5], [6])])[0].shape == (1,)


def test_what_it_says_of_itself(vllm_scorer: VllmProcess) -> None:
    where = "1 GPU(s)" if torch.cuda.is_available() else "CPU"
    assert vllm_scorer.description.startswith("Qwen3ForCausalLM in vLLM, torch.")
    assert vllm_scorer.description.endswith(f", context 1023 tokens, {where}")


def test_sar_of_real_rollouts_equals_that_of_transformers(
    smollm2: Path,
    start_vllm: Callable[..., VllmProcess],
    load_transformers: Callable[[Path], TransformersScorer],
) -> None:
    """Rollouts of another model where they are present, with SmolLM2's chat template."""
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(smollm2)
    tokenizer = RolloutTokenizer(own, system_prompt=DEFAULT_SYSTEM_PROMPT, standalone_prompt="chat")
    pairs = []
    for question, response in _read_rollouts():
        prompt = render_prompt(own, question, DEFAULT_SYSTEM_PROMPT)
        pairs += tokenizer.encode(prompt, response + "<|im_end|>").sequences
    scorer = start_vllm(smollm2)
    got = _compute_sar(scorer.response_logprobs(pairs))
    scorer.close()
    expected = _compute_sar(load_transformers(smollm2).response_logprobs(pairs))
    print(f"SAR differs by up to {np.abs(np.subtract(got, expected)).max():.1e}")
    assert len(got) == NUM_ROLLOUTS
    assert np.ptp(expected) > 0.2, "similar rewards would hide mistakes"
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


def _read_rollouts() -> list[tuple[str, str]]:
    """Questions with responses: the shortest of the rollouts, or, without them, our own texts."""
    if not ROLLOUTS.is_file():
        problems = islice(generate(7, held_out=True), NUM_ROLLOUTS)
        return [(problem.question, problem.padded) for problem in problems]
    with ROLLOUTS.open() as lines:
        rollouts = sorted(map(json.loads, lines), key=lambda one: len(one["response"]))
    return [(one["question"], one["response"]) for one in rollouts[:NUM_ROLLOUTS]]


def _compute_sar(logprobs: list[Any]) -> list[float]:
    """SAR of each pair of log-probabilities: after the prompt, after the empty-question prompt."""
    nlls = list(map(mean_nll, logprobs))
    return [self_aligned_reward(*pair) for pair in zip(nlls[::2], nlls[1::2], strict=True)]
