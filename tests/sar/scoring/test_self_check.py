"""Which models pass the scorer's self-check, and that it refuses each injected fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from sar.scoring import packed_attention
from sar.scoring.packing import Pack, Segment
from sar.scoring.probe import ProbeText, make_probe, read_probe_text
from sar.scoring.self_check import SelfCheck
from sar.scoring.transformers_scorer import TransformersScorer

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# Shorter than the probe, so that the check sees past the window.
WINDOW = {"sliding_window": 12}
SOFTCAPS = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 1.0}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "mistral": lambda: MistralConfig(**SHAPE, **WINDOW),
    "phi3": lambda: Phi3Config(**SHAPE, **WINDOW),
    "gemma2": lambda: Gemma2Config(**SHAPE, **WINDOW, **SOFTCAPS, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, **WINDOW, head_dim=8),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def build(name: str, dtype: torch.dtype, **changes: Any) -> Any:
    config = CONFIGS[name]()
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("spread", [0.02, 0.2])
@DTYPES
def test_real_architectures_are_packed(name: str, dtype: torch.dtype, spread: float) -> None:
    scorer = TransformersScorer(build(name, dtype, initializer_range=spread), 1000)
    assert scorer.scoring_path == ("packed", "varlen: only on a GPU")


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3"])
@DTYPES
def test_text_of_a_tokenizer_is_probed_with(
    name: str, dtype: torch.dtype, bundled_model_path: Path
) -> None:
    text = read_probe_text(str(bundled_model_path), trust_remote_code=False)
    assert text
    assert all(text.contexts + text.responses)
    size = 1 + max(max(ids) for ids in text.contexts + text.responses)
    model = build(name, dtype, vocab_size=size, max_position_embeddings=512)
    used = [s.response_ids for s in make_probe(model, text).sequences]
    assert set(map(tuple, text.responses)) <= set(map(tuple, used))
    assert TransformersScorer(model, 1000, probe_text=text).scoring_path.name == "packed"


def test_a_text_that_the_model_does_not_know_is_not_used() -> None:
    model = build("llama", torch.float32)
    for text in (None, ProbeText([[3, 97], [3]], [[4]]), ProbeText([[3], []], [[4]])):
        for sequence in make_probe(model, text).sequences:
            assert max(sequence.context_ids + sequence.response_ids) < SHAPE["vocab_size"]
            assert len(sequence.response_ids) > 4


@pytest.mark.parametrize("limit", [2, 4, 8, 40])
def test_a_probe_fits_into_the_models_context(limit: int) -> None:
    model = build("llama", torch.float32, max_position_embeddings=limit)
    text = ProbeText([list(range(60)), list(range(1, 60))], [list(range(50))])
    probe = make_probe(model, text)
    assert max(map(len, probe.sequences)) <= limit
    contexts = {tuple(s.context_ids) for s in probe.sequences}
    assert len(contexts) == 2
    for variant in probe.variants:
        assert list(map(len, variant.sequences)) == list(map(len, probe.sequences))
        changed = set(range(len(probe.sequences))) - set(variant.unchanged)
        assert changed
        assert all(variant.sequences[i] != probe.sequences[i] for i in changed)
        assert all(variant.sequences[i] == probe.sequences[i] for i in variant.unchanged)


def shift_positions(patch: pytest.MonkeyPatch, which: Callable[[int], bool]) -> None:
    """Moves these responses of a pack one position away from their context."""
    append = Pack._append

    def shifted(self: Pack, ids: Any, segment: Segment) -> Segment:
        number = sum(s.num_context_tokens > 0 for s in self.segments)
        result = append(self, ids, segment)
        if segment.num_context_tokens and which(number):
            self._positions[-1] = self._positions[-1] + 1
        return result

    patch.setattr(Pack, "_append", shifted)


def leak(patch: pytest.MonkeyPatch, share: float) -> None:
    """Adds a share of the first response's attention to that of all later ones."""
    blockwise = packed_attention._attend_blockwise

    def leaky(layout: Any, *arguments: Any) -> Any:
        output = blockwise(layout, *arguments)
        responses = [s for s in layout.segments if s.num_context_tokens]
        source = output[:, responses[0].stop - 1 : responses[0].stop].clone()
        if len(responses) > 1:
            output[:, responses[1].start :] += share * source
        return output

    patch.setattr(packed_attention, "_attend_blockwise", leaky)


def see_too_much(patch: pytest.MonkeyPatch) -> None:
    """Lets responses attend to the whole pack before them, other responses included."""
    append = Pack._append

    def seeing(self: Pack, ids: Any, segment: Segment) -> Segment:
        result = append(self, ids, segment)
        if segment.num_context_tokens:
            self.segments[-1] = Segment(segment.start, segment.stop, 0, segment.start)
        return result

    patch.setattr(Pack, "_append", seeing)


def drop_softcap(patch: pytest.MonkeyPatch) -> None:
    attend = packed_attention._attend

    def without(query: Any, key: Any, value: Any, mask: Any, scaling: Any, softcap: Any) -> Any:
        return attend(query, key, value, mask, scaling, None)

    patch.setattr(packed_attention, "_attend", without)


def widen_window(patch: pytest.MonkeyPatch) -> None:
    """Lets each token see one more token than the model's sliding window has."""
    choose = packed_attention._Layout.get_mask

    def widened(self: Any, window: int | None, dtype: torch.dtype) -> Any:
        return choose(self, window and window + 1, dtype)

    patch.setattr(packed_attention._Layout, "get_mask", widened)


FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = {
    "all positions": ("llama", lambda p: shift_positions(p, lambda _: True), "differ by"),
    "positions of one": ("llama", lambda p: shift_positions(p, lambda n: n == 1), "differ by"),
    "a leak": ("llama", lambda p: leak(p, 0.1), "differ by|change each other"),
    "a small leak": ("llama", lambda p: leak(p, 1e-3), "differ by|change each other"),
    "a leak among experts": ("mixtral", lambda p: leak(p, 0.1), "differ by|change each other"),
    "a response that sees others": ("qwen3", see_too_much, "differ by|change each other"),
    "no soft-capping": ("gemma2", drop_softcap, "differ by"),
    "a window one too wide": ("mistral", widen_window, "differ by"),
}


@pytest.mark.parametrize("fault", FAULTS)
@DTYPES
def test_an_injected_fault_is_refused(
    fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, inject, reason = FAULTS[fault]
    model = build(name, dtype)
    inject(monkeypatch)
    path = TransformersScorer(model, 1000).scoring_path
    assert path.name == "unpacked"
    assert any(word in path.reason for word in reason.split("|")), path.reason


@pytest.mark.parametrize("softcap", [1.0, 5.0])
def test_even_weak_soft_capping_that_is_dropped_is_refused_in_float32(
    softcap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("gemma2", torch.float32, attn_logit_softcapping=softcap)
    assert TransformersScorer(model, 1000).scoring_path.name == "packed"
    model = build("gemma2", torch.float32, attn_logit_softcapping=softcap)
    drop_softcap(monkeypatch)
    assert TransformersScorer(model, 1000).scoring_path.name == "unpacked"


class NoisyLlama(LlamaForCausalLM):  # type: ignore[misc]  # transformers is untyped
    """Computes something else from its cache, and lets the rows of a batch change each other."""

    def forward(self, input_ids: Any = None, past_key_values: Any = None, **kwargs: Any) -> Any:
        output = super().forward(input_ids, past_key_values=past_key_values, **kwargs)
        if past_key_values is not None:
            output.logits = output.logits * 3
        elif input_ids is not None and len(input_ids) == 2:
            tilt_V = torch.linspace(0, 2, output.logits.shape[-1])
            output.logits = output.logits + tilt_V * (int(input_ids[0].sum()) % 13)
        return output


class LlamaWithoutCache(LlamaForCausalLM):  # type: ignore[misc]
    """As some models with code of their own are."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("use_cache"):
            raise NotImplementedError("no cache")
        return super().forward(*args, **kwargs)


@DTYPES
def test_a_broken_model_cannot_declare_its_own_noise(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = NoisyLlama(CONFIGS["llama"]()).to(dtype).eval()
    check = SelfCheck(model, None)
    ceiling = 1e-3 if dtype == torch.float32 else 0.1
    assert (check.tolerance, check.leak_tolerance) == (ceiling, ceiling)
    leak(monkeypatch, 1.0)
    assert TransformersScorer(model, 1000).scoring_path.name == "unpacked"


def test_a_model_without_a_cache_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = LlamaWithoutCache(CONFIGS["llama"]()).eval()
    assert SelfCheck(model, None).tolerance == 5e-5
    assert TransformersScorer(model, 1000).scoring_path.name == "packed"
    shift_positions(monkeypatch, lambda number: number == 1)
    assert TransformersScorer(model, 1000).scoring_path.name == "unpacked"
