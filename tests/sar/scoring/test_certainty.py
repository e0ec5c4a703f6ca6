"""Self-certainty equals a float64 computation from the logits, and costs nothing unasked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
)

from sar.scoring import TokenSequence
from sar.scoring.output_head import OutputHead
from sar.scoring.transformers_scorer import TransformersScorer

Array = npt.NDArray[Any]

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SOFTCAPS = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 0.5}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen3, tied": lambda: Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True),
    "gemma2": lambda: Gemma2Config(**SHAPE, **SOFTCAPS, sliding_window=4, head_dim=8),
    "cohere": lambda: CohereConfig(**SHAPE, logit_scale=0.25),
    "granite": lambda: GraniteConfig(**SHAPE, logits_scaling=4.0),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_positions=128, n_embd=32, n_layer=2, n_head=4,
        initializer_range=0.3, bos_token_id=1, eos_token_id=2,
    ),
    # Cannot be packed.
    "bloom": lambda: AutoConfig.for_model("bloom", **SHAPE | {"num_key_value_heads": 4}),
}  # fmt: skip
_models: dict[str, Any] = {}
_scorers: dict[tuple[str, bool], TransformersScorer] = {}

ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12)
sequences = st.builds(TokenSequence, ids, ids, st.booleans())


def model_of(name: str) -> Any:
    if name not in _models:
        torch.manual_seed(0)
        _models[name] = AutoModelForCausalLM.from_config(
            CONFIGS[name](), attn_implementation="eager" if name == "gemma2" else None
        ).eval()
    return copy.deepcopy(_models[name])


def scorer_of(name: str, *, is_divided: bool = False) -> TransformersScorer:
    """A scorer that keeps its model between tests."""
    key = (name, is_divided)
    if key not in _scorers:
        scorer = _scorers[key] = TransformersScorer(model_of(name), 100_000)
        if is_divided:
            assert scorer._head.divide(20), "the last of five blocks is shorter"
    return _scorers[key]


def drawn(num: int, vocabulary: int = VOCABULARY) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    return [
        TokenSequence(
            rng.integers(0, vocabulary, rng.integers(1, 30)).tolist(),
            rng.integers(0, vocabulary, rng.integers(1, 30)).tolist(),
            wants_certainty=number % 3 > 0,
        )
        for number in range(num)
    ]


@torch.no_grad()
def reference(model: Any, sequence: TokenSequence) -> tuple[Array, Array]:
    """One sequence through the whole model; log p and the sum of U log(U / p) in float64."""
    tokens = sequence.context_ids + sequence.response_ids
    logits = model(input_ids=torch.tensor([tokens])).logits[0].double().numpy()
    logprobs, divergences = [], []
    for position in range(len(sequence.context_ids), len(tokens)):
        row = logits[position - 1]
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        uniform = np.full(len(p), 1 / len(p))
        logprobs.append(np.log(p[tokens[position]]))
        divergences.append(np.sum(uniform * np.log(uniform / p)))
    return np.array(logprobs), np.array(divergences)


def assert_scores(model: Any, scored: Sequence[TokenSequence], got: Sequence[Array]) -> None:
    assert len(got) == len(scored)
    for sequence, scores in zip(scored, got, strict=True):
        logprobs, divergences = reference(model, sequence)
        assert scores.dtype == np.float32
        if sequence.wants_certainty:
            np.testing.assert_allclose(scores, [logprobs, divergences], rtol=0, atol=1e-5)
        else:
            np.testing.assert_allclose(scores, logprobs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_divergence_of_the_models_own_logits(name: str) -> None:
    scored = drawn(10)
    divergences = np.concatenate([reference(model_of(name), one)[1] for one in scored])
    assert np.ptp(divergences) > 0.05, "a flat model would hide mistakes"
    for budget in (100_000, 60):
        scorer = TransformersScorer(model_of(name), budget)
        assert scorer.scoring_path.name == ("unpacked" if name == "bloom" else "packed")
        assert_scores(model_of(name), scored, scorer.response_logprobs(scored))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "bloom"])
def test_a_divided_vocabulary_gives_what_the_whole_gives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, scored = scorer_of(name, is_divided=True), drawn(10)
    assert_scores(model_of(name), scored, scorer.response_logprobs(scored))
    monkeypatch.setattr(scorer, "_logits_bytes", 7 * 4 * scorer._head.num_words)  # 7 rows at a time
    assert_scores(model_of(name), scored, scorer.response_logprobs(scored))


def test_the_bundled_model(bundled_model_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(bundled_model_path).eval()
    scorer = TransformersScorer(copy.deepcopy(model), 100_000)
    scored = drawn(12, model.config.vocab_size)
    assert_scores(model, scored, scorer.response_logprobs(scored))


@pytest.mark.parametrize("is_divided", [False, True])
@settings(max_examples=20)
@given(scored=st.lists(sequences, min_size=1, max_size=8))
def test_asking_for_it_changes_no_log_probability(
    is_divided: bool, scored: list[TokenSequence]
) -> None:
    scorer = scorer_of("llama", is_divided=is_divided)
    plain = scorer.response_logprobs([replace(one, wants_certainty=False) for one in scored])
    mixed = scorer.response_logprobs(scored)
    for sequence, logprobs_T, scores in zip(scored, plain, mixed, strict=True):
        shape = (len(sequence.response_ids),)
        assert scores.shape == ((2, *shape) if sequence.wants_certainty else shape)
        np.testing.assert_array_equal(scores[0] if sequence.wants_certainty else scores, logprobs_T)


@pytest.mark.parametrize("is_divided", [False, True])
def test_nothing_is_computed_that_nobody_asks_for(
    is_divided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    compute = OutputHead.target_logprobs

    def spy(head: Any, hidden: Any, targets: Any, body: Any, certainty: Any = None) -> Any:
        asked.append(certainty is not None)
        return compute(head, hidden, targets, body, certainty)

    monkeypatch.setattr(OutputHead, "target_logprobs", spy)
    scorer, scored = scorer_of("llama", is_divided=is_divided), drawn(4)
    scorer.response_logprobs([replace(one, wants_certainty=False) for one in scored])
    assert asked == [False]
    scorer.response_logprobs(scored)
    assert asked == [False, True], "one pass for both"


def test_it_survives_running_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, scored = scorer_of("llama"), drawn(6)
    score = TransformersScorer._score_pack

    def picky(self: Any, pack: Any, members: Any) -> Any:
        if len(members) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(self, pack, members)

    monkeypatch.setattr(TransformersScorer, "_score_pack", picky)
    assert_scores(model_of("llama"), scored, scorer.response_logprobs(scored))


def test_in_bfloat16_it_is_near_that_of_the_same_weights() -> None:
    model = model_of("qwen3, tied").to(torch.bfloat16)
    scored = drawn(6)
    got = TransformersScorer(copy.deepcopy(model), 100_000).response_logprobs(scored)
    for sequence, scores in zip(scored, got, strict=True):
        if sequence.wants_certainty:
            expected = reference(model.float(), sequence)[1].mean()
            assert scores[1].mean() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("is_divided", [False, True])
def test_a_uniform_distribution_has_none(is_divided: bool) -> None:
    scorer = TransformersScorer(model_of("llama"), 1000)
    with torch.no_grad():
        scorer._model.lm_head.weight.zero_()
    if is_divided:
        assert scorer._head.divide(20)
    (scores,) = scorer.response_logprobs([TokenSequence([1, 2], [3, 4, 5], wants_certainty=True)])
    np.testing.assert_allclose(scores[0], -np.log(VOCABULARY), atol=1e-6)
    np.testing.assert_allclose(scores[1], 0, atol=1e-6)


def test_a_wrong_computation_is_found_when_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = OutputHead.target_logprobs

    def wrong(head: Any, hidden: Any, targets: Any, body: Any, certainty: Any = None) -> Any:
        logprobs = compute(head, hidden, targets, body, certainty)
        if certainty is not None:
            certainty += 0.01
        return logprobs

    monkeypatch.setattr(OutputHead, "target_logprobs", wrong)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM: self-certainties differ by 0\.01"):
        TransformersScorer(model_of("llama"), 1000)


class BanningLlama(LlamaForCausalLM):  # type: ignore[misc]  # transformers is untyped
    """Gives one word no probability, as models do whose vocabulary has ids for images."""

    ban = -torch.inf

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits[..., 5] = self.ban
        return output


@pytest.mark.parametrize("ban", [-torch.inf, torch.finfo(torch.float32).min])
def test_a_model_that_bans_words_is_scored(ban: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BanningLlama, "ban", ban)
    torch.manual_seed(0)
    model = BanningLlama(CONFIGS["llama"]()).eval()
    sequence = TokenSequence([1, 2], [3, 4])
    with np.errstate(divide="ignore"):
        expected, _ = reference(model, sequence)
    (got,) = TransformersScorer(model, 1000).response_logprobs([sequence])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
