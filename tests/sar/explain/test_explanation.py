"""The tokens' log-likelihoods, against the reward and against the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sar.explain.explanation import Explanation, explain_tokens
from sar.explain.model import ModelExplainer
from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
from sar.models import BUNDLED_MODEL
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.reward import Likelihood
from sar.scoring.transformers_scorer import TransformersScorer
from sar.scoring.vllm_scorer import VllmScorer
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.registry import TERMS

PROBLEM = next(problem for problem in generate(5, held_out=True) if problem.num_steps == 2)
RESPONSES = {
    "concise": PROBLEM.concise + "<|im_end|>",
    "padded": PROBLEM.padded + "<|im_end|>",
    "emoji": "It is 😀👩‍👩‍👧‍👦🇩🇪!",
    "combining marks": "e\u0301o\u0308\u0323 Answer: 5",
    "cjk": "答案是五。\n五",
    "right to left": "שלום \u202e5 مرحبا",
    "special tokens alone": "<|im_end|>",
    "special tokens inside": "<|im_start|>5<|im_end|><|endoftext|>5",
    "white space": " \n\t ",
    "control characters": "\x00\x1b[2J",
    "empty": "",
    "one token": "5",
    "over the context": "Answer 5 中. " * 400,
}


@pytest.fixture(scope="module")
def scorer() -> TransformersScorer:
    """The scorer of the reward, with a model of its own."""
    return TransformersScorer.from_pretrained(str(BUNDLED_MODEL), max_batch_tokens=4096)


@pytest.fixture(scope="module")
def prompt(explainer: ModelExplainer) -> str:
    return explainer.render_prompt(PROBLEM.question, DEFAULT_SYSTEM_PROMPT)


def compute_logprobs(
    model: torch.nn.Module, context: list[int], response: list[int]
) -> npt.NDArray[np.float64]:
    """In float64, with the model's own forward pass over the whole sequence."""
    with torch.inference_mode():
        logits_TV = model(torch.tensor([context + response])).logits[0]
    logprobs_TV = logits_TV.double().log_softmax(1)[len(context) - 1 : -1]
    found: npt.NDArray[np.float64] = logprobs_TV[range(len(response)), response].numpy()
    return found


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_means_over_the_tokens_are_the_rewards(
    explainer: ModelExplainer, scorer: TransformersScorer, prompt: str, response: str
) -> None:
    explanation = explainer.explain(prompt, response)
    encoded = explainer.tokenizer.encode(prompt, response)
    reward = Likelihood.from_logprobs(encoded, scorer.response_logprobs(encoded.sequences))
    tokens = explanation.tokens
    if not response:
        assert (tokens, reward.sar) == ([], 0.0)
        return
    assert np.mean([t.nll_qa for t in tokens]) == pytest.approx(reward.nll_qa, abs=1e-6)
    assert np.mean([t.nll_a for t in tokens]) == pytest.approx(reward.nll_a, abs=1e-6)
    assert [t.text for t in tokens] == [response[t.start : t.end] for t in tokens]
    shown = "".join(t.text for i, t in enumerate(tokens) if not i or t.start >= tokens[i - 1].end)
    assert response.startswith(shown)
    assert (shown == response) == (not reward.over_context)
    assert reward.over_context == (response == RESPONSES["over the context"])


@pytest.mark.parametrize("name", ["concise", "emoji", "special tokens inside", "over the context"])
def test_each_token_has_the_models_own_log_likelihoods(
    explainer: ModelExplainer, prompt: str, name: str
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BUNDLED_MODEL, dtype=torch.float64).eval()
    explanation = explainer.explain(prompt, RESPONSES[name])
    encoded = explainer.tokenizer.encode(prompt, RESPONSES[name])
    for attribute, sequence in zip(("nll_qa", "nll_a"), encoded.sequences, strict=True):
        expected = -compute_logprobs(model, sequence.context_ids, sequence.response_ids)
        got = [getattr(token, attribute) for token in explanation.tokens]
        np.testing.assert_allclose(got, expected, atol=2e-4)


def test_each_way_of_scoring_gives_the_same_tokens(
    explainer: ModelExplainer, scorer: TransformersScorer, prompt: str
) -> None:
    """Packed, each sequence alone, and vLLM, whose engine is played by the model itself."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BUNDLED_MODEL, dtype=torch.float64).eval()
    encoded = explainer.tokenizer.encode(prompt, RESPONSES["padded"])
    assert scorer.scoring_path.name == "packed"
    alone = TransformersScorer.from_pretrained(str(BUNDLED_MODEL), max_batch_tokens=4096)
    alone._attention = None
    alone._model.set_attn_implementation("sdpa")
    first, *others = [
        explain_tokens(
            explainer.tokenizer,
            RESPONSES["padded"],
            encoded,
            one.response_logprobs(encoded.sequences),
        )
        for one in (scorer, alone, VllmScorer(_Engine(model), None))
    ]
    for tokens in others:
        assert [t[:3] for t in tokens] == [t[:3] for t in first]
        np.testing.assert_allclose([t[3:] for t in tokens], [t[3:] for t in first], atol=2e-4)


class _Engine:
    """Answers as `vllm.LLM.generate` does: a log-probability for each token but the first."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model

    def generate(self, prompts: Sequence[dict[str, list[int]]], *_: Any, **__: Any) -> list[Any]:
        return [_Output(self._model, one["prompt_token_ids"]) for one in prompts]


class _Output:
    def __init__(self, model: torch.nn.Module, ids: list[int]) -> None:
        self.prompt_logprobs = self
        self.token_ids = ids[1:]
        self.logprobs = compute_logprobs(model, ids[:1], ids[1:]).tolist()


def test_self_certainties_are_not_taken_for_tokens(explainer: ModelExplainer, prompt: str) -> None:
    """Terms can ask the scorer for more than two log-likelihoods."""
    composition = Composition(
        tuple(
            WeightedTerm(name, TERMS[name]())
            for name in ("correctness", "sar", "self_certainty", "reference_likelihood")
        )
    )
    response = RESPONSES["concise"]
    graders = GraderPool(1, 5.0)
    try:
        (explained,) = explainer.explain_graded(
            prompt,
            [response],
            parse_label(str(PROBLEM.answer)),
            graders,
            sar_weight=0.2,
            composition=composition,
        )
    finally:
        graders.close()
    plain = explainer.explain(prompt, response)
    assert explained.verdict is not None
    assert explained.verdict.correctness == 1.0
    assert set(explained.terms) == {"correctness", "sar", "self_certainty", "reference_likelihood"}
    assert explained.reward == pytest.approx(sum(explained.terms.values()))
    assert explained.terms["sar"] == pytest.approx(plain.likelihood.sar, abs=1e-5)
    np.testing.assert_allclose(
        [t[3:] for t in explained.tokens], [t[3:] for t in plain.tokens], atol=1e-4
    )


def test_padding_dilutes_what_the_question_explains(explainer: ModelExplainer, prompt: str) -> None:
    """What the heat-map is for: filler has tokens that the question does not explain."""

    def mean_gain(explanation: Explanation) -> float:
        return float(np.mean([token.gain for token in explanation.tokens]))

    concise, padded = (explainer.explain(prompt, RESPONSES[n]) for n in ("concise", "padded"))
    assert mean_gain(concise) > 1.5 * mean_gain(padded) > 0
