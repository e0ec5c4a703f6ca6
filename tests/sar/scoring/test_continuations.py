"""Sequences that continue others have the log-probabilities that they have alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    Qwen3Config,
)

from sar.scoring import TokenSequence
from sar.scoring.packing import Pack
from sar.scoring.transformers_scorer import TransformersScorer

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SOFTCAPS = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 0.5}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "gemma2": lambda: Gemma2Config(**SHAPE, **SOFTCAPS, sliding_window=4, head_dim=8),
    "phi3": lambda: Phi3Config(**SHAPE, sliding_window=4),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_positions=128, n_embd=32, n_layer=2, n_head=4,
        initializer_range=0.3, bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip
_scorers: dict[str, TransformersScorer] = {}

ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12)


def build(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        CONFIGS[name](), attn_implementation="eager" if name == "gemma2" else None
    ).eval()


def scorer_of(name: str) -> TransformersScorer:
    if name not in _scorers:
        _scorers[name] = TransformersScorer(build(name), 100_000)
    return _scorers[name]


@st.composite
def groups(draw: st.DrawFn) -> list[TokenSequence]:
    """Rollouts of a few prompts, and what continues them, in any order."""
    sequences = []
    for context in draw(st.lists(ids, min_size=1, max_size=3)):
        for response in draw(st.lists(ids, min_size=1, max_size=3)):
            rollout = TokenSequence(context, response, wants_certainty=draw(st.booleans()))
            sequences.append(rollout)
            for _ in range(draw(st.integers(0, 2))):
                kept = response[: draw(st.integers(0, len(response)))]
                sequences.append(
                    TokenSequence(
                        context + kept + draw(st.just([]) | ids), draw(ids), continues=rollout
                    )
                )
    return draw(st.permutations(sequences))


@torch.no_grad()
def reference(model: Any, sequence: TokenSequence) -> npt.NDArray[Any]:
    """One sequence alone through the whole model, in float64."""
    tokens = sequence.context_ids + sequence.response_ids
    logits = model(input_ids=torch.tensor([tokens])).logits[0].double()
    logprobs = logits[len(sequence.context_ids) - 1 : -1].log_softmax(1).numpy()
    return np.array(
        [row[token] for row, token in zip(logprobs, sequence.response_ids, strict=True)]
    )


def logprobs_of(scores: npt.NDArray[Any], sequence: TokenSequence) -> npt.NDArray[Any]:
    return np.asarray(scores[0] if sequence.wants_certainty else scores)


def assert_scores(
    model: Any, sequences: Sequence[TokenSequence], got: Sequence[npt.NDArray[Any]]
) -> None:
    for sequence, scores in zip(sequences, got, strict=True):
        np.testing.assert_allclose(
            logprobs_of(scores, sequence), reference(model, sequence), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=12)
@given(sequences=groups(), budget=st.sampled_from([100_000, 100_000, 40, 1]))
def test_they_are_scored_as_if_they_were_alone(
    name: str, sequences: list[TokenSequence], budget: int
) -> None:
    scorer = scorer_of(name)
    got = scorer._score(sequences, budget)
    assert_scores(build(name), sequences, got)


def test_what_is_shared_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of("llama")
    sizes = []
    score = TransformersScorer._score_pack

    def noting(self: Any, pack: Pack, members: Any) -> Any:
        sizes.append(pack.num_tokens)
        return score(self, pack, members)

    monkeypatch.setattr(TransformersScorer, "_score_pack", noting)
    rollout = TokenSequence(list(range(20)), list(range(20, 50)))
    reasoning = rollout.context_ids + rollout.response_ids[:25]
    reference_ids = [90, 91]
    continuation = TokenSequence([*reasoning, 80], reference_ids, continues=rollout)
    together = scorer.response_logprobs([rollout, continuation])
    apart = scorer.response_logprobs([rollout, replace(continuation, continues=None)])
    assert sizes == [49 + 2, 49 + 47]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_running_out_of_memory_parts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of("llama")
    rollout = TokenSequence([1, 2, 3], [4, 5, 6, 7])
    sequences = [
        rollout,
        TokenSequence([1, 2, 3, 4, 5], [8, 9], continues=rollout),
        TokenSequence([1, 2, 3], [8, 9], continues=rollout),
    ]
    sizes = []
    score = TransformersScorer._score_pack

    def picky(self: Any, pack: Pack, members: Any) -> Any:
        sizes.append(len(members))
        if len(members) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(self, pack, members)

    monkeypatch.setattr(TransformersScorer, "_score_pack", picky)
    assert_scores(build("llama"), sequences, scorer.response_logprobs(sequences))
    assert sizes == [3, 1, 1, 1]


def test_a_fault_in_them_is_found_when_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append = Pack._append

    def shifted(self: Pack, ids: Any, segment: Any) -> Any:
        result = append(self, ids, segment)
        if segment.shared_stop > segment.shared_start:
            self._positions[-1] = self._positions[-1] + 1
        return result

    monkeypatch.setattr(Pack, "_append", shifted)
    path = TransformersScorer(build("llama"), 1000).scoring_path
    assert path.name == "unpacked"
    assert "log-probabilities of continued responses differ" in path.reason
