"""Attention within each sequence of a pack, for the models of Hugging Face transformers.

It is registered with transformers under the name `PACKED`. Inside `attend_within_segments`, a token
attends only to its own segment, that segment's context, and what it shares of a response. Outside,
the attention is transformers' own scaled dot product attention.

Some models attend in ways that this module does not implement: with attention sinks, in chunks,
with biases. They raise `CannotPack`, so that no model gets wrong log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from sar.scoring.packing import Segment

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None  # type: ignore[assignment]

PACKED = "sar_packed"

# Queries that are computed together against one slice of the keys. Larger blocks compute more
# scores that the mask then hides; smaller blocks make smaller matrices. Of 64 to 1024, 256 is the
# fastest on a CPU.
_QUERY_BLOCK = 256
# Limits of the flash attention kernel.
_MAX_FLASH_HEAD_SIZE = 256
_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_FLASH_CAPABILITY = (8, 0)

_UNKNOWN_MASK = object()

# Arguments of attention functions that this module either honours or can ignore.
_KNOWN_ARGUMENTS = {
    "dropout", "is_causal", "position_ids", "sliding_window", "use_cache", "output_attentions",
    "output_hidden_states", "return_dict", "cache_position",
}  # fmt: skip


class CannotPack(Exception):
    """The model attends in a way that this module does not implement."""


@dataclass(frozen=True)
class _Window:
    """How many tokens a token of this layer attends to, itself included; None: all of them."""

    size: int | None


class _VarlenArguments(NamedTuple):
    """A layout of S segments with K keys, as the variable-length kernel takes it."""

    key_index: Tensor
    """(K,) The token of the pack that each key comes from."""
    query_starts: Tensor
    """(S + 1,) int32. Each segment's first query, then the number of queries."""
    key_starts: Tensor
    """(S + 1,) int32. The same for keys."""
    max_queries: int
    max_keys: int


class _Layout:
    """The segments of a pack and what the layers compute from them, which they share."""

    def __init__(
        self, segments: Sequence[Segment], device: torch.device, *, allows_varlen: bool
    ) -> None:
        self.segments = segments
        self.allows_varlen = allows_varlen
        self.num_attended = 0
        self._device = device
        self._masks: dict[Any, Tensor] = {}

    def get_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(rows, columns) mask of 0 or -inf to add to the scores; a query block takes a slice.

        Row i attends to column j if `columns - rows + i - window < j <= columns - rows + i`.
        """
        key = (window, dtype)
        if key not in self._masks:
            rows = min(_QUERY_BLOCK, max(s.stop - s.start for s in self.segments))
            columns = max(s.num_visible_tokens for s in self.segments) + rows
            ones = torch.ones(rows, columns, dtype=torch.bool, device=self._device)
            visible = ones.tril(columns - rows)
            if window is not None:
                visible &= ones.triu(columns - rows - window + 1)
            mask = torch.zeros(rows, columns, dtype=dtype, device=self._device)
            self._masks[key] = mask.masked_fill_(~visible, float("-inf"))
        return self._masks[key]

    @cached_property
    def varlen(self) -> _VarlenArguments:
        key_index = torch.cat(
            [torch.arange(start, stop) for s in self.segments for start, stop in _list_visible(s)]
        )
        num_queries = [s.stop - s.start for s in self.segments]
        num_keys = [s.num_visible_tokens for s in self.segments]
        return _VarlenArguments(
            key_index.to(self._device),
            _sum_to_starts(num_queries).to(self._device),
            _sum_to_starts(num_keys).to(self._device),
            max(num_queries),
            max(num_keys),
        )


def _list_visible(segment: Segment) -> list[tuple[int, int]]:
    """The stretches of the pack that a segment's last token attends to, in their order."""
    return [
        (segment.context_start, segment.context_stop),
        (segment.shared_start, segment.shared_stop),
        (segment.start, segment.stop),
    ]


def _sum_to_starts(lengths: list[int]) -> Tensor:
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)


_layout: ContextVar[_Layout | None] = ContextVar("layout", default=None)


@contextmanager
def attend_within_segments(
    segments: Sequence[Segment], device: torch.device, *, num_layers: int, allows_varlen: bool
) -> Iterator[None]:
    """Inside this block, a model with attention `PACKED` reads its input as a pack of segments.

    Args:
        num_layers: number of the model's layers, all of which must attend through this module.
        allows_varlen: use PyTorch's variable-length flash attention if possible.
    Raises:
        CannotPack: some layers attend in a way that this module does not implement.
    """
    layout = _Layout(segments, device, allows_varlen=allows_varlen)
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)
    if layout.num_attended != num_layers:
        raise CannotPack(
            f"{layout.num_attended} of its {num_layers} layers use transformers' AttentionInterface"
        )


def _choose_mask(**kwargs: Any) -> Any:
    """transformers calls this for the mask of each kind of layer. A pack returns a `_Window`."""
    if _layout.get() is None:
        return sdpa_mask(**kwargs)
    is_visible = kwargs["mask_function"]
    if is_visible is causal_mask_function:
        return _Window(None)
    window = kwargs.get("local_size")
    if window and not kwargs.get("use_vmap") and _is_sliding(is_visible, window):
        return _Window(window)
    return _UNKNOWN_MASK  # No error yet: models also make masks that none of their layers uses.


def _is_sliding(is_visible: Callable[..., Tensor], window: int) -> bool:
    """True for a sliding window, False for chunked attention.

    Probe: in a sliding window, the token just past the window attends to every earlier token except
    the first. In chunked attention, it starts a new chunk and attends to none of them.
    """
    zero = torch.tensor(0)
    return bool(
        is_visible(zero, zero, zero + window, zero + 1)
        and not is_visible(zero, zero, zero + window, zero)
    )


def _attend_in_layer(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in each layer.

    Shapes: T tokens, Q query heads, K key heads, D per head.
    query (1, Q, T, D), key and value (1, K, T, D) -> (1, T, Q, D)
    """
    layout = _layout.get()
    if layout is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, **kwargs
        )
        return output
    if attention_mask is _UNKNOWN_MASK:
        raise CannotPack("its attention mask is neither causal nor a sliding window")
    if not isinstance(attention_mask, _Window):
        raise CannotPack("it builds its attention masks by itself")
    if kwargs.get("is_causal") is False or not getattr(module, "is_causal", True):
        raise CannotPack("its attention is not causal")
    given = {name for name, value in kwargs.items() if value is not None}
    if unknown := given - _KNOWN_ARGUMENTS:
        raise CannotPack(f"its attention takes {', '.join(sorted(unknown))}")
    layout.num_attended += 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = attention_mask.size
    if layout.allows_varlen and _can_use_varlen(query, value, softcap):
        return _attend_varlen(layout, query, key, value, window, scaling), None
    return _attend_blockwise(layout, query, key, value, window, scaling, softcap), None


def _can_use_varlen(query: Tensor, value: Tensor, softcap: float | None) -> bool:
    """True if PyTorch's variable-length flash attention supports these tensors."""
    return (
        varlen_attn is not None
        and query.is_cuda
        and query.dtype in _FLASH_DTYPES
        and query.shape[-1] == value.shape[-1] <= _MAX_FLASH_HEAD_SIZE
        and not softcap
        and torch.cuda.get_device_capability(query.device) >= _FLASH_CAPABILITY
    )


def _attend_varlen(
    layout: _Layout, query: Tensor, key: Tensor, value: Tensor, window: int | None, scaling: float
) -> Tensor:
    """Computes all segments with one kernel. It aligns a segment's last query with its last key."""
    varlen = layout.varlen
    query_TQD, key_TKD, value_TKD = (x[0].transpose(0, 1) for x in (query, key, value))
    output: Any = varlen_attn(
        query_TQD.contiguous(),
        key_TKD[varlen.key_index],
        value_TKD[varlen.key_index],
        varlen.query_starts,
        varlen.key_starts,
        varlen.max_queries,
        varlen.max_keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    attended: Tensor = output[None]
    return attended


def _attend_blockwise(
    layout: _Layout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Computes each segment in blocks of queries, each against the keys that it can attend to."""
    mask = layout.get_mask(window, query.dtype)
    last = mask.shape[1] - mask.shape[0]
    output = value.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
    for s in layout.segments:
        is_shared = s.shared_stop > s.shared_start
        if not is_shared and s.context_stop in (s.context_start, s.start):
            # Contiguous, or no context at all.
            first = s.start - s.num_context_tokens
            keys, values = key[:, :, first : s.stop], value[:, :, first : s.stop]
        else:
            visible_parts = [slice(*part) for part in _list_visible(s)]
            keys, values = (
                torch.cat([x[:, :, part] for part in visible_parts], 2) for x in (key, value)
            )
        for start in range(s.start, s.stop, _QUERY_BLOCK):
            stop = min(start + _QUERY_BLOCK, s.stop)
            num_before = s.num_context_tokens + start - s.start
            hidden = 0 if window is None else max(0, num_before - window + 1)
            visible = slice(hidden, num_before + stop - start)
            attended = _attend(
                query[:, :, start:stop],
                keys[:, :, visible],
                values[:, :, visible],
                mask[: stop - start, last - num_before + hidden : last + stop - start],
                scaling,
                softcap,
            )
            output[:, start:stop] = attended.transpose(1, 2)
    return output


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float | None
) -> Tensor:
    is_grouped = query.shape[1] != key.shape[1]
    if not softcap:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=is_grouped
        )
    # The fused kernels do not support soft-capping of attention scores (Gemma 2).
    if is_grouped:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scaling / softcap)) * softcap + mask
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


AttentionInterface.register(PACKED, _attend_in_layer)
AttentionMaskInterface.register(PACKED, _choose_mask)
