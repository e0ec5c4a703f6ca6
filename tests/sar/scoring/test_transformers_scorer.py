"""Compares the scorer with a slow, independent float64 computation, for many architectures."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    Qwen3Config,
)

from sar.perplexity import mean_nll
from sar.scoring import TokenSequence
from sar.scoring.output_head import OutputHead
from sar.scoring.transformers_scorer import TransformersScorer

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # far from uniform, so that mistakes show
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 4}
CONFIGS = {
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "qwen3, tied": lambda: Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True),
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama, tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "gemma2": lambda: Gemma2Config(
        **SHAPE, **WINDOW, head_dim=8, final_logit_softcapping=3.0, attn_logit_softcapping=0.5
    ),
    "gemma3_text": lambda: Gemma3TextConfig(
        **SHAPE, **WINDOW, head_dim=8, final_logit_softcapping=3.0
    ),
    "phi3": lambda: Phi3Config(**SHAPE, **WINDOW),
    "cohere": lambda: CohereConfig(**SHAPE, logit_scale=0.25),
    "granite": lambda: GraniteConfig(**SHAPE, logits_scaling=4.0),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_positions=128, n_embd=32, n_layer=2, n_head=4,
        initializer_range=0.3, bos_token_id=1, eos_token_id=2,
    ),
    "opt": lambda: OPTConfig(
        vocab_size=VOCABULARY, max_position_embeddings=128, hidden_size=32, ffn_dim=48,
        num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32, init_std=0.3,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
}  # fmt: skip
_models: dict[str, Any] = {}

token_ids = st.integers(0, VOCABULARY - 1)
sequences = st.builds(
    TokenSequence,
    st.lists(token_ids, min_size=1, max_size=12),
    st.lists(token_ids, min_size=1, max_size=12),
)


def model_of(name: str) -> Any:
    if name not in _models:
        torch.manual_seed(0)
        # transformers' other implementations drop the soft-capping of attention scores.
        _models[name] = AutoModelForCausalLM.from_config(
            CONFIGS[name](), attn_implementation="eager" if name == "gemma2" else None
        ).eval()
    return _models[name]


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return model_of(request.param)


def drawn(num: int, *, seed: int = 0, longest: int = 30) -> list[TokenSequence]:
    rng = np.random.default_rng(seed)
    return [
        TokenSequence(
            rng.integers(0, VOCABULARY, rng.integers(1, longest)).tolist(),
            rng.integers(0, VOCABULARY, rng.integers(1, longest)).tolist(),
        )
        for _ in range(num)
    ]


@torch.no_grad()
def reference(model: Any, sequence: TokenSequence) -> npt.NDArray[Any]:
    """One sequence alone through the whole model, a token at a time, in float64."""
    ids = sequence.context_ids + sequence.response_ids
    logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    first = len(sequence.context_ids)
    logprobs = []
    for position in range(first, len(ids)):
        row = logits[position - 1] - logits[position - 1].max()
        logprobs.append(row[ids[position]] - np.log(np.exp(row).sum()))
    return np.array(logprobs)


def assert_close(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_log_probabilities_are_the_models(model: Any) -> None:
    scored = drawn(12)
    expected = [reference(model, sequence) for sequence in scored]
    assert np.ptp(np.concatenate(expected)) > 0.5, "a flat model would hide mistakes"
    for budget in (100_000, 150, 1):
        got = TransformersScorer(model, budget).response_logprobs(scored)
        assert len(got) == len(scored)
        for logprobs, wanted in zip(got, expected, strict=True):
            assert logprobs.dtype == np.float32
            assert_close(logprobs, wanted)


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "opt", "mixtral"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    scored=st.lists(sequences, min_size=1, max_size=8),
    budget=st.integers(1, 400),
    order=st.randoms(use_true_random=False),
)
def test_a_sequence_does_not_notice_its_batch(
    name: str, scored: list[TokenSequence], budget: int, order: random.Random
) -> None:
    scorer = TransformersScorer(model_of(name), budget)
    alone = [scorer.response_logprobs([sequence])[0] for sequence in scored]
    indices = list(range(len(scored)))
    order.shuffle(indices)
    together = scorer.response_logprobs([scored[i] for i in indices])
    for index, logprobs in zip(indices, together, strict=True):
        assert_close(logprobs, alone[index])


def test_no_sequences_no_results() -> None:
    assert TransformersScorer(model_of("qwen3"), 100).response_logprobs([]) == []


def test_a_later_token_does_not_change_an_earlier_one(model: Any) -> None:
    (sequence,) = drawn(1, seed=3)
    longer = TokenSequence(sequence.context_ids, [*sequence.response_ids, 5, 6, 7])
    short, long = TransformersScorer(model, 1000).response_logprobs([sequence, longer])
    assert_close(long[: len(short)], short)


class Recorder:
    """Sees what every call of a scorer's head takes and gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[Any, Any]] = []
        call = OutputHead.__call__

        def recording(head: Any, hidden: Any, body: Any) -> Any:
            logits = call(head, hidden, body)
            self.shapes.append((tuple(hidden.shape), tuple(logits.shape)))
            return logits

        monkeypatch.setattr(OutputHead, "__call__", recording)


def test_logits_exist_for_a_few_response_positions_at_a_time(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = drawn(10)
    scorer = TransformersScorer(model, 10_000)
    expected = scorer.response_logprobs(scored)
    monkeypatch.setattr(scorer, "_logits_bytes", 7 * 4 * VOCABULARY)
    recorder = Recorder(monkeypatch)
    got = scorer.response_logprobs(scored)
    for logprobs, wanted in zip(got, expected, strict=True):
        assert_close(logprobs, wanted)
    num_response_tokens = sum(len(s.response_ids) for s in scored)
    assert [logits for _, logits in recorder.shapes] == (
        [(7, VOCABULARY)] * (num_response_tokens // 7)
        + [(num_response_tokens % 7, VOCABULARY)] * (num_response_tokens % 7 > 0)
    )
    assert {hidden[1] for hidden, _ in recorder.shapes} == {32}


def test_no_tensor_holds_logits_of_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("qwen3")
    scorer = TransformersScorer(model, 10_000)
    monkeypatch.setattr(scorer, "_logits_bytes", 4 * VOCABULARY)
    rows = []
    hook = model.lm_head.register_forward_hook(
        lambda _module, _inputs, logits: rows.append(logits.numel() // VOCABULARY)
    )
    scored = drawn(5)
    scorer.response_logprobs(scored)
    hook.remove()
    assert rows == [1] * sum(len(s.response_ids) for s in scored)


def test_the_body_runs_on_at_most_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = TransformersScorer(model_of("llama"), 64)
    sizes = []
    body = scorer._body

    def recording(**inputs: Any) -> Any:
        sizes.append(inputs["input_ids"].shape)
        return body(**inputs)

    monkeypatch.setattr(scorer, "_body", recording)
    scored = drawn(20)
    scorer.response_logprobs(scored)
    assert all(rows == 1 and width <= 64 for rows, width in sizes), "a row without padding"
    num_tokens = sum(len(sequence) - 1 for sequence in scored)  # the last one predicts nothing
    assert sum(width for _, width in sizes) == num_tokens
    assert len(sizes) < 2 * num_tokens / 64, "packs are full"


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = model_of("llama")
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        TransformersScorer(model, 100).response_logprobs(drawn(3))
        after = model(input_ids=ids).logits
    assert torch.equal(before, after)
    assert model.base_model is model.model


def test_weights_that_change_in_place_are_scored() -> None:
    # A trainer's refresh writes into the weights; the head must not keep old ones.
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
    scorer = TransformersScorer(model, 1000)
    scored = drawn(2)
    before = scorer.response_logprobs(scored)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    for sequence, old, new in zip(scored, before, scorer.response_logprobs(scored), strict=True):
        assert_close(new, reference(model, sequence))
        assert not np.allclose(new, old, atol=1e-2)


@pytest.mark.parametrize("where", ["lm_head.weight", "model.norm.weight"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_weights_are_never_a_reward(where: str, bad: float) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
    scorer = TransformersScorer(model, 1000)
    with torch.no_grad():
        model.get_parameter(where)[3:5] = bad
    for logprobs in scorer.response_logprobs(drawn(3)):
        with pytest.raises(FloatingPointError):
            mean_nll(logprobs)
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        TransformersScorer(model, 1000)


def test_a_model_whose_body_goes_by_another_name_is_scored_or_refused() -> None:
    # Llama 4's class names "language_model" as its body and calls it "model".
    config = Llama4TextConfig(
        **SHAPE, intermediate_size_mlp=48, head_dim=8, num_local_experts=2,
        attention_chunk_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    try:
        scorer = TransformersScorer(model, 1000)
    except ValueError:
        return
    scored = drawn(3)
    for sequence, got in zip(scored, scorer.response_logprobs(scored), strict=True):
        assert_close(got, reference(model, sequence))


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma3_text"])
def test_the_context_is_the_models(name: str) -> None:
    assert TransformersScorer(model_of(name), 100).max_context_tokens == 128


def test_a_model_from_disk(tmp_path: Path) -> None:
    model = model_of("qwen3, tied")
    model.save_pretrained(tmp_path)
    scorer = TransformersScorer.from_pretrained(str(tmp_path), device="cpu", max_batch_tokens=1000)
    scored = drawn(3)
    for sequence, got in zip(scored, scorer.response_logprobs(scored), strict=True):
        assert_close(got, reference(model, sequence))
    assert re.fullmatch(
        r"Qwen3ForCausalLM, 0\.0M parameters, torch\.float32, cpu", scorer.description
    )
    bfloat = TransformersScorer.from_pretrained(
        str(tmp_path), device="cpu", dtype="bfloat16", max_batch_tokens=1000
    )
    assert "torch.bfloat16" in bfloat.description
    (got,) = bfloat.response_logprobs(scored[:1])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, reference(model, scored[0]), rtol=0.1, atol=0.3)


def test_a_sequence_needs_a_context_and_a_response() -> None:
    with pytest.raises(ValueError, match="context"):
        TokenSequence([], [1])
    with pytest.raises(ValueError, match="response without tokens"):
        TokenSequence([1], [])
    assert len(TokenSequence([1, 2], [3])) == 3


def test_references_themselves_are_log_probabilities() -> None:
    model = model_of("qwen3")
    total = sum(
        np.exp(reference(model, TokenSequence([3, 4], [token]))[0]) for token in range(VOCABULARY)
    )
    assert total == pytest.approx(1)
    joint = reference(model, TokenSequence([3], [4, 5, 6]))
    steps = [
        reference(model, TokenSequence(ids[:-1], ids[-1:]))[0]
        for ids in ([3, 4], [3, 4, 5], [3, 4, 5, 6])
    ]
    assert_close(joint, np.array(steps))
    assert all(a != b for a, b in pairwise(steps))
