"""Compares attention over packs with a slow softmax over the visible tokens, in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
)
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    or_masks,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from sar.scoring import TokenSequence
from sar.scoring import packed_attention as module
from sar.scoring.packed_attention import PACKED, CannotPack, attend_within_segments
from sar.scoring.packing import Segment, plan_packs

attend = AttentionInterface()[PACKED]
make_mask = AttentionMaskInterface()[PACKED]
CPU = torch.device("cpu")
CAUSAL = SimpleNamespace(is_causal=True)
HEADS = [(4, 4), (4, 2), (6, 1)]
# Two contexts; the responses to the first are not contiguous with it, but for one.
LAYOUT = [
    Segment(0, 5),
    Segment(5, 12, 0, 5),
    Segment(12, 13, 0, 5),
    Segment(13, 20),
    Segment(20, 29, 13, 20),
    Segment(29, 33, 0, 5),
    Segment(33, 34),
]
SHAPE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def drawn(
    num_tokens: int,
    heads: tuple[int, int],
    *,
    size: int = 8,
    value_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    num_queries, num_keys = heads
    shapes = [(num_queries, size), (num_keys, size), (num_keys, value_size or size)]
    return [
        (2 * torch.randn(1, n, num_tokens, d, generator=generator)).to(dtype) for n, d in shapes
    ]


def mask_of(window: int | None, **kwargs: Any) -> Any:
    sees = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    return make_mask(mask_function=sees, local_size=window, **kwargs)


def run(
    segments: list[Segment],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None = None,
    varlen: bool = False,
    **kwargs: Any,
) -> Tensor:
    output: Tensor
    with attend_within_segments(segments, CPU, num_layers=1, allows_varlen=varlen):
        output, weights = attend(CAUSAL, query, key, value, mask_of(window), **kwargs)
    assert weights is None
    return output


def reference(
    segments: list[Segment], query: Tensor, key: Tensor, value: Tensor, *,
    window: int | None = None, scaling: float | None = None, softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """(1, T, Q, D), token by token."""
    query, key, value = (x[0].double() for x in (query, key, value))
    key, value = (x.repeat_interleave(len(query) // len(x), 0) for x in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = torch.empty(query.shape[1], query.shape[0], value.shape[-1], dtype=torch.float64)
    for s in segments:
        for token in range(s.start, s.stop):
            seen = [*range(s.context_start, s.context_stop), *range(s.start, token + 1)]
            seen = seen[-window:] if window else seen
            scores_QK = (key[:, seen] @ query[:, token, :, None])[..., 0] * scaling
            if softcap:
                scores_QK = softcap * torch.tanh(scores_QK / softcap)
            weights_QK = torch.exp(scores_QK - scores_QK.amax(1, keepdim=True))
            weights_QK /= weights_QK.sum(1, keepdim=True)
            output[token] = (weights_QK[:, None] @ value[:, seen])[:, 0]
    return output[None]


def check(
    segments: list[Segment], tensors: list[Tensor], *, tolerance: float = 2e-5, **kwargs: Any
) -> None:
    varlen = kwargs.pop("varlen", False)
    got = run(segments, *tensors, varlen=varlen, **kwargs)
    assert got.dtype == tensors[0].dtype
    expected = reference(segments, *tensors, **kwargs)
    assert_close(got.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("window", [None, 1, 5, 16, 17, 100])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("block", [256, 4, 1])
def test_tokens_attend_only_to_their_own_sequence(
    heads: tuple[int, int],
    window: int | None,
    softcap: float | None,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_QUERY_BLOCK", block)
    check(LAYOUT, drawn(34, heads), window=window, softcap=softcap)


@pytest.mark.parametrize("scaling", [0.01, 1.0])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_models_own_scaling_is_used(scaling: float | None, softcap: float | None) -> None:
    check(LAYOUT, drawn(34, (4, 2)), scaling=scaling, softcap=softcap)


@pytest.mark.parametrize("window", [None, 9])
def test_values_may_be_of_another_size_than_keys(window: int | None) -> None:
    check(LAYOUT, drawn(34, (4, 2), value_size=12), window=window)


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_bfloat16_is_off_by_its_rounding_only(window: int | None, softcap: float | None) -> None:
    tensors = drawn(34, (4, 2), dtype=torch.bfloat16)
    check(LAYOUT, tensors, tolerance=0.06, window=window, softcap=softcap)


@pytest.mark.parametrize(
    ("window", "softcap"),
    [(None, None), (1, None), (200, None), (256, None), (257, None), (None, 3.0), (300, 3.0)],
)
def test_segments_longer_than_a_block_of_queries(window: int | None, softcap: float | None) -> None:
    segments = [Segment(0, 300), Segment(300, 560, 0, 300), Segment(560, 575, 0, 300)]
    check(segments, drawn(575, (2, 1), size=4), window=window, softcap=softcap)


@settings(max_examples=40)
@given(
    lengths=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=8
    ),
    budget=st.integers(1, 60),
    window=st.none() | st.integers(1, 20),
    block=st.integers(1, 12),
    softcap=st.none() | st.just(1.0),
    varlen=st.booleans(),
)
def test_any_pack_that_is_planned(
    lengths: list[tuple[int, int, int]], budget: int, window: int | None, block: int,
    softcap: float | None, varlen: bool,
) -> None:  # fmt: skip
    sequences = [TokenSequence([which] * c, [3] * r) for which, c, r in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_QUERY_BLOCK", block)
        patch.setattr(module, "varlen_attn", varlen_by_its_documentation)
        patch.setattr(module, "_can_use_varlen", lambda _query, _value, softcap: not softcap)
        for pack in plan_packs(sequences, budget):
            tensors = drawn(pack.num_tokens, (4, 2), size=4)
            check(pack.segments, tensors, window=window, softcap=softcap, varlen=varlen)


def varlen_by_its_documentation(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor,
    max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """What torch.nn.attention.varlen promises: bottom-right causal, `window_size[0]` to the left
    of a query's own key, -1 for all."""
    assert {cu_seq_q.dtype, cu_seq_k.dtype} == {torch.int32}
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert query.shape[1] % key.shape[1] == 0
    assert window_size[1] == 0, "causal"
    assert cu_seq_q[0] == cu_seq_k[0] == 0
    assert (int(cu_seq_q[-1]), int(cu_seq_k[-1])) == (query.shape[0], key.shape[0])
    assert key.shape[0] == value.shape[0]
    assert max_q == cu_seq_q.diff().max()
    assert max_k == cu_seq_k.diff().max()
    assert all(isinstance(m, int) for m in (max_q, max_k)), "the kernel takes no tensors for these"
    repeats = query.shape[1] // key.shape[1]
    output = torch.empty(*query.shape[:2], value.shape[-1], dtype=query.dtype)
    for i in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[i] : cu_seq_q[i + 1]].double()
        k, v = (
            x[cu_seq_k[i] : cu_seq_k[i + 1]].double().repeat_interleave(repeats, 1)
            for x in (key, value)
        )
        own = torch.arange(len(q))[:, None] + len(k) - len(q)
        column = torch.arange(len(k))[None]
        seen = column <= own
        if window_size[0] >= 0:
            seen &= column >= own - window_size[0]
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        output[cu_seq_q[i] : cu_seq_q[i + 1]] = torch.einsum("hqk,khd->qhd", weights, v).to(q)
    return output


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("window", [None, 1, 5, 16, 100])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_the_varlen_kernel_gets_the_right_arguments(
    heads: tuple[int, int],
    window: int | None,
    scaling: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def recording(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(kwargs)
        return varlen_by_its_documentation(*args, **kwargs)

    monkeypatch.setattr(module, "varlen_attn", recording)
    monkeypatch.setattr(module, "_can_use_varlen", lambda *_: True)
    check(LAYOUT, drawn(34, heads), window=window, scaling=scaling, varlen=True)
    (call,) = calls
    assert call["window_size"] == ((-1, 0) if window is None else (window - 1, 0))


def test_the_varlen_kernel_is_not_used_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "varlen_attn", lambda *_, **__: pytest.fail("on a CPU"))
    tensors = drawn(34, (4, 2), dtype=torch.bfloat16)
    check(LAYOUT, tensors, tolerance=0.06, varlen=True)


def test_layers_of_different_windows_share_a_pack() -> None:
    tensors = drawn(34, (4, 2))
    with attend_within_segments(LAYOUT, CPU, num_layers=4, allows_varlen=False):
        for window in (None, 3, None, 7):
            output, _ = attend(CAUSAL, *tensors, mask_of(window))
            expected = reference(LAYOUT, *tensors, window=window)
            assert_close(output.double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"s_aux": torch.zeros(4)}, "s_aux"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"never_heard_of": 3}, "never_heard_of"),
        ({"zeta": 0, "alpha": False}, "alpha, zeta"),
        ({"is_causal": False}, "not causal"),
    ],
)
def test_attention_that_is_not_known_is_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(CannotPack, match=reason):
        run(LAYOUT, *drawn(34, (4, 2)), **arguments)


def test_arguments_that_are_none_or_change_nothing_are_taken() -> None:
    check_against = run(LAYOUT, *drawn(34, (4, 2)))
    got = run(
        LAYOUT, *drawn(34, (4, 2)), s_aux=None, dropout=0.0, is_causal=True, use_cache=False
    )  # fmt: skip
    assert torch.equal(got, check_against)


def test_a_module_that_is_not_causal_is_refused() -> None:
    encoder = SimpleNamespace(is_causal=False)
    with (
        pytest.raises(CannotPack, match="not causal"),
        attend_within_segments(LAYOUT, CPU, num_layers=1, allows_varlen=False),
    ):
        attend(encoder, *drawn(34, (4, 2)), mask_of(None))


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 1, 34, 34), torch.ones(1, 34)])
def test_a_mask_that_the_model_made_is_refused(mask: Tensor | None) -> None:
    with (
        pytest.raises(CannotPack, match="by itself"),
        attend_within_segments(LAYOUT, CPU, num_layers=1, allows_varlen=False),
    ):
        attend(CAUSAL, *drawn(34, (4, 2)), mask)


@pytest.mark.parametrize(
    ("sees", "arguments"),
    [
        (bidirectional_mask_function, {}),
        (bidirectional_mask_function, {"local_size": 4}),
        (sliding_window_bidirectional_mask_function(4), {}),
        (chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.int)), {"local_size": 4}),
        (chunked_causal_mask_function(1000, torch.zeros(1, dtype=torch.int)), {"local_size": 1000}),
        (or_masks(causal_mask_function, lambda b, h, q, k: k < 3), {"use_vmap": True}),
        (and_masks(causal_mask_function, lambda b, h, q, k: k != 1), {}),
        (sliding_window_causal_mask_function(4), {}),
        (sliding_window_causal_mask_function(4), {"local_size": 5}),
        (sliding_window_causal_mask_function(4), {"local_size": 3}),
        (sliding_window_causal_mask_function(4), {"local_size": 4, "use_vmap": True}),
        (lambda b, h, q, k: k <= q, {"local_size": 4}),
    ],
)  # fmt: skip
def test_a_mask_that_is_neither_causal_nor_a_sliding_window_is_refused(
    sees: Any, arguments: dict[str, Any]
) -> None:
    with (
        pytest.raises(CannotPack, match="mask"),
        attend_within_segments(LAYOUT, CPU, num_layers=1, allows_varlen=False),
    ):
        attend(CAUSAL, *drawn(34, (4, 2)), make_mask(mask_function=sees, **arguments))


def test_a_mask_that_no_layer_uses_does_not_matter() -> None:
    # Qwen 2 MoE makes one of sliding windows for layers that it need not have.
    with attend_within_segments(LAYOUT, CPU, num_layers=1, allows_varlen=False):
        make_mask(mask_function=bidirectional_mask_function)
        attend(CAUSAL, *drawn(34, (4, 2)), mask_of(None))


@pytest.mark.parametrize(("num_calls", "num_layers"), [(0, 1), (1, 2), (2, 1)])
def test_layers_that_attend_elsewhere_are_noticed(num_calls: int, num_layers: int) -> None:
    def layers() -> None:
        with attend_within_segments(LAYOUT, CPU, num_layers=num_layers, allows_varlen=False):
            for _ in range(num_calls):
                attend(CAUSAL, *drawn(34, (4, 2)), mask_of(None))

    with pytest.raises(CannotPack, match=f"{num_calls} of its {num_layers} layers"):
        layers()


def test_an_error_within_a_pack_is_what_is_raised_and_ends_it() -> None:
    with (
        pytest.raises(KeyError, match="mine"),
        attend_within_segments(LAYOUT, CPU, num_layers=5, allows_varlen=False),
    ):
        raise KeyError("mine")
    assert torch.is_tensor(make_mask(**whole_mask(4, causal_mask_function)))


def whole_mask(length: int, sees: Any) -> dict[str, Any]:
    return {
        "batch_size": 1, "q_length": length, "kv_length": length, "mask_function": sees,
        "allow_is_causal_skip": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SHAPE), Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=4)],
    ids=["llama", "gemma3_text"],
)
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_outside_of_packs_a_model_is_bit_for_bit_as_with_transformers_own_attention(
    config: Any, padded: bool
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    inputs = {"input_ids": torch.randint(3, 97, (3, 20))}
    if padded:
        inputs["attention_mask"] = (torch.arange(20) < torch.tensor([[20], [9], [1]])).long()
    expected = model(**inputs).logits
    generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    model.set_attn_implementation(PACKED)
    assert torch.equal(model(**inputs).logits, expected)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), generated)
    pack = [Segment(0, 20)]
    with attend_within_segments(pack, CPU, num_layers=2, allows_varlen=False):
        model.base_model(input_ids=inputs["input_ids"][:1], use_cache=False)
    assert torch.equal(model(**inputs).logits, expected)
