"""Compares the scorer with padded batches and a whole log-softmax, for many architectures.

Models that cannot be packed have to be scored one sequence at a time, or refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    Phi3Config,
    Qwen3Config,
)

from sar.perplexity import mean_nll
from sar.scoring import TokenSequence
from sar.scoring.checkpoint import load_model, raise_if_untrained
from sar.scoring.transformers_scorer import TransformersScorer

VOCABULARY = 97
SHAPE: dict[str, Any] = {
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
# Longer than the scorer's own trial of a model, shorter than the rollouts.
WINDOW = {"sliding_window": 16}
TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
SOFTCAPS = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 0.5}
PACKED = {
    "qwen3": lambda: Qwen3Config(**SHAPE, **UNTIED, head_dim=8),
    "qwen3, tied": lambda: Qwen3Config(**SHAPE, **TIED, head_dim=8),
    "llama": lambda: LlamaConfig(**SHAPE, **UNTIED),
    "llama, tied": lambda: LlamaConfig(**SHAPE, **TIED),
    "gemma2": lambda: Gemma2Config(**SHAPE, **TIED, **WINDOW, **SOFTCAPS, head_dim=8),
    "gemma2, untied": lambda: Gemma2Config(**SHAPE, **UNTIED, **WINDOW, **SOFTCAPS, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, **TIED, **WINDOW, head_dim=8),
    "gemma3, untied": lambda: Gemma3TextConfig(
        **SHAPE, **UNTIED, **WINDOW, head_dim=8, final_logit_softcapping=3.0
    ),
    "phi3": lambda: Phi3Config(**SHAPE, **UNTIED, **WINDOW),
    "phi3, tied": lambda: Phi3Config(**SHAPE, **TIED),
    "cohere": lambda: CohereConfig(**SHAPE, **TIED, logit_scale=0.25),
    "granite": lambda: GraniteConfig(
        **SHAPE, **UNTIED, logits_scaling=4.0, attention_multiplier=0.2, embedding_multiplier=2.0
    ),
}
packed_models = pytest.mark.parametrize("name", PACKED)
MAMBA = {
    "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_ssm": 32, "mamba_d_state": 8,
    "mamba_n_groups": 1, "mamba_chunk_size": 16,
}  # fmt: skip
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
EXPERTS = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1}
# Recurrence, biases for distance, sinks, chunks, attention past transformers' interface or with
# two halves, a whole-sentence mask: model types and what their tiny configurations add.
NOT_PACKED: dict[str, dict[str, Any]] = {
    "mamba": {},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 16},
    "falcon_h1": {**MAMBA, "head_dim": 8},
    "jamba": {**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    "qwen3_next": {**LINEAR, **EXPERTS, "head_dim": 8, "moe_intermediate_size": 16},
    "lfm2": {"layer_types": ["full_attention", "conv"]},
    "recurrent_gemma": {**WINDOW, "head_dim": 8, "attention_window_size": 16},
    "rwkv": {"attention_hidden_size": 32},
    "bloom": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "falcon": {"alibi": True},
    "gpt_oss": {**WINDOW, **EXPERTS, "head_dim": 8},
    "llama4_text": {
        **EXPERTS, "head_dim": 8, "attention_chunk_size": 16, "intermediate_size_mlp": 48,
    },
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {
        "num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 16,
    },
    "diffllama": {},
    "bert": {"is_decoder": False},
}  # fmt: skip

REFUSED = ("bert", "llama4_text")


def build(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    if getattr(config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # the others drop it
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms, biases, sinks, decays: all the same at first
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def rollouts(
    seed: int = 0, num_prompts: int = 3, num_rollouts: int = 4, longest: int = 45
) -> list[TokenSequence]:
    """Groups that share their prompts, each response also after the empty-question prompt."""
    rng = np.random.default_rng(seed)

    def ids(shortest: int, longest: int) -> list[int]:
        drawn: list[int] = rng.integers(3, VOCABULARY, rng.integers(shortest, longest)).tolist()
        return drawn

    empty = ids(4, 8)
    sequences = []
    for _ in range(num_prompts):
        prompt = [*empty, *ids(2, 30)]
        for _ in range(num_rollouts):
            response = ids(1, longest)
            sequences += [TokenSequence(prompt, response), TokenSequence(empty, response)]
    return sequences


@torch.no_grad()
def plain(
    model: Any, sequences: list[TokenSequence], batch_size: int = 8
) -> list[npt.NDArray[Any]]:
    """Right-padded batches with an attention mask; all logits in float32."""
    results = []
    for start in range(0, len(sequences), batch_size):
        batch = sequences[start : start + batch_size]
        ids = [torch.tensor(s.context_ids + s.response_ids) for s in batch]
        input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        lengths = torch.tensor([len(s) for s in batch])
        mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        logprobs = logits.float().log_softmax(-1)
        for row, sequence in enumerate(batch):
            first = len(sequence.context_ids)
            results.append(
                np.array(
                    [
                        logprobs[row, first + t - 1, token].item()
                        for t, token in enumerate(sequence.response_ids)
                    ]
                )
            )
    return results


def alone(model: Any, sequences: list[TokenSequence]) -> list[npt.NDArray[Any]]:
    return plain(model, sequences, batch_size=1)


def assert_close(
    got: Sequence[npt.NDArray[Any]], expected: Sequence[npt.NDArray[Any]], tolerance: float = 1e-4
) -> None:
    for logprobs, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(logprobs, wanted, rtol=0, atol=tolerance)


@packed_models
def test_numbers_are_those_of_padded_batches(name: str) -> None:
    model = build(PACKED[name]())
    sequences = rollouts()
    expected = plain(model, sequences)
    assert np.ptp(np.concatenate(expected)) > 0.5, "a flat model would hide mistakes"
    for budget in (100_000, 200):
        scorer = TransformersScorer(copy.deepcopy(model), budget)
        assert scorer._attention, "it is one that can be packed"
        assert_close(scorer.response_logprobs(sequences), expected)


def nlls(results: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.array([mean_nll(np.asarray(logprobs, np.float32)) for logprobs in results])


@packed_models
def test_numbers_in_bfloat16_are_those_of_padded_batches_in_bfloat16(name: str) -> None:
    # Smaller weights than SHAPE's, with which bfloat16 itself is off by more than this.
    config = PACKED[name]()
    config.initializer_range = 0.1
    half = build(config, torch.bfloat16)
    sequences = rollouts(longest=30)
    got = nlls(TransformersScorer(copy.deepcopy(half), 100_000).response_logprobs(sequences))
    exact = nlls(plain(copy.deepcopy(half).float(), sequences))
    np.testing.assert_allclose(got, nlls(plain(half, sequences)), rtol=0, atol=2e-2)
    np.testing.assert_allclose(got, exact, rtol=0, atol=2e-2)


@pytest.mark.parametrize("name", NOT_PACKED)
def test_a_model_that_cannot_be_packed_is_scored_right_or_refused(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    shape = SHAPE | {"num_key_value_heads": 4} if name in ("mpt", "bloom") else SHAPE
    model = build(AutoConfig.for_model(name, **{**shape, **NOT_PACKED[name]}))
    sequences = rollouts(num_prompts=2, num_rollouts=2)
    expected = alone(model, sequences)
    assert np.ptp(np.concatenate(expected)) > 0.5, "a flat model would hide mistakes"
    if name in REFUSED:
        with pytest.raises(ValueError, match=f"cannot score with {type(model).__name__}"):
            TransformersScorer(model, 100_000)
        return
    scorer = TransformersScorer(copy.deepcopy(model), 100_000)
    assert f"{type(model).__name__} cannot be packed" in caplog.text
    assert "one at a time" in caplog.text
    assert_close(scorer.response_logprobs(sequences), expected)


@pytest.mark.parametrize("name", [*PACKED, *NOT_PACKED])
def test_a_checkpoint_of_any_architecture_is_the_whole_model(name: str, tmp_path: Path) -> None:
    if name in PACKED:
        config = PACKED[name]()
    else:
        shape = SHAPE | {"num_key_value_heads": 4} if name in ("mpt", "bloom") else SHAPE
        config = AutoConfig.for_model(name, **{**shape, **NOT_PACKED[name]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load_model(str(tmp_path), dtype="float32", trust_remote_code=False)
    raise_if_untrained(loaded)
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor.float()), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_recurrence_beside_attention_is_never_packed(dtype: torch.dtype, spread: float) -> None:
    # Each layer attends in the usual way, and has a state-space half that knows no packs.
    shape = SHAPE | {"initializer_range": spread, "hidden_size": 64}
    mamba = MAMBA | {"mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_d_state": 16}
    model = build(AutoConfig.for_model("falcon_h1", **shape, **mamba, head_dim=16), dtype)
    sequences = rollouts()
    expected = alone(model, sequences)
    scorer = TransformersScorer(model, 100_000)
    assert scorer._attention is None
    got = scorer.response_logprobs(sequences)
    if dtype == torch.float32:
        assert_close(got, expected)
    else:
        np.testing.assert_allclose(
            list(map(mean_nll, got)), list(map(mean_nll, expected)), rtol=0, atol=2e-2
        )


LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
}  # fmt: skip


def test_rotations_that_depend_on_the_length_are_each_sequences_own() -> None:
    # Phi-3 and Phi-4-mini rotate otherwise in sequences longer than those first trained on.
    model = build(Phi3Config(**SHAPE, rope_parameters=LONGROPE))
    lengths = [(3, 4), (30, 20), (3, 13), (3, 15), (30, 2), (3, 1)]  # the limit is 16
    sequences = [
        TokenSequence(list(range(3, 3 + context)), list(range(40, 40 + response)))
        for context, response in lengths
    ]
    expected = alone(copy.deepcopy(model), sequences)
    scorer = TransformersScorer(model, 100_000)
    assert scorer._attention
    assert_close(scorer.response_logprobs(sequences), expected)


def test_rotations_that_depend_on_what_was_scored_before_are_refused() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    model = build(LlamaConfig(**SHAPE, rope_parameters=dynamic))
    with pytest.raises(ValueError, match="LlamaForCausalLM: its dynamic rotary embeddings"):
        TransformersScorer(model, 100_000)


@pytest.mark.parametrize("rope_type", ["yarn", "linear", "llama3"])
def test_rotations_that_are_the_same_for_all_lengths_are_packed(rope_type: str) -> None:
    rope = {
        "rope_type": rope_type, "rope_theta": 10_000.0, "factor": 4.0,
        "original_max_position_embeddings": 32, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    }  # fmt: skip
    model = build(LlamaConfig(**SHAPE, rope_parameters=rope))
    sequences = rollouts()
    expected = alone(copy.deepcopy(model), sequences)
    scorer = TransformersScorer(model, 100_000)
    assert scorer._attention
    assert_close(scorer.response_logprobs(sequences), expected)
