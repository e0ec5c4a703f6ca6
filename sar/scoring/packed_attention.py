"""Attention inside each sequence of a pack, for the models of Hugging Face transformers.

Registered with transformers under `PACKED`. While a layout is set (`packed`), tokens see only what
their segment allows; otherwise it is transformers' own scaled dot product attention.

A model's way of attending that is not known here (attention sinks, chunks, biases) raises
`CannotPack`: it is never computed as something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
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

# Queries that see one slice of keys together. More of them compute more of what causality hides,
# fewer make smaller matrices; of 64 to 1024, the fastest on a CPU.
_QUERY_BLOCK = 256
# The flash kernel's limits.
_MAX_FLASH_HEAD_SIZE = 256
_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_FLASH_CAPABILITY = (8, 0)

_UNKNOWN_MASK = object()

# Arguments of attention functions that change nothing here, or are honoured.
_KNOWN_ARGUMENTS = {
    "dropout", "is_causal", "position_ids", "sliding_window", "use_cache", "output_attentions",
    "output_hidden_states", "return_dict", "cache_position",
}  # fmt: skip


class CannotPack(Exception):
    """The model attends in a way that packs do not know."""


@dataclass(frozen=True)
class _Window:
    """How far back a layer sees: this many tokens, itself included; None for all."""

    size: int | None


class _Varlen(NamedTuple):
    """S segments for one kernel. `key_index` (K,): the token that gives each key; starts (S + 1,),
    int32: where the queries and the keys of each segment begin."""

    key_index: Tensor
    query_starts: Tensor
    key_starts: Tensor
    max_queries: int
    max_keys: int


class _Layout:
    """What a forward pass needs to know of its pack, made once for all layers."""

    def __init__(
        self, segments: Sequence[Segment], device: torch.device, *, allows_varlen: bool
    ) -> None:
        self.segments = segments
        self.allows_varlen = allows_varlen
        self.num_attended = 0
        self._device = device
        self._masks: dict[Any, Tensor] = {}
        self._varlen: _Varlen | None = None

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(rows, columns) to slice masks of query blocks from; -inf where nothing is seen.

        Row i sees column j when `columns - rows + i - window < j <= columns - rows + i`.
        """
        key = (window, dtype)
        if key not in self._masks:
            rows = min(_QUERY_BLOCK, max(s.stop - s.start for s in self.segments))
            columns = max(s.num_visible_tokens for s in self.segments) + rows
            ones = torch.ones(rows, columns, dtype=torch.bool, device=self._device)
            seen = ones.tril(columns - rows)
            if window is not None:
                seen &= ones.triu(columns - rows - window + 1)
            mask = torch.zeros(rows, columns, dtype=dtype, device=self._device)
            self._masks[key] = mask.masked_fill_(~seen, float("-inf"))
        return self._masks[key]

    @property
    def varlen(self) -> _Varlen:
        if self._varlen is None:
            key_index = torch.cat(
                [
                    torch.arange(start, stop)
                    for s in self.segments
                    for start, stop in ((s.context_start, s.context_stop), (s.start, s.stop))
                ]
            )
            num_queries = [s.stop - s.start for s in self.segments]
            num_keys = [s.num_visible_tokens for s in self.segments]
            self._varlen = _Varlen(
                key_index.to(self._device),
                _starts(num_queries).to(self._device),
                _starts(num_keys).to(self._device),
                max(num_queries),
                max(num_keys),
            )
        return self._varlen


def _starts(lengths: list[int]) -> Tensor:
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)


_layout: ContextVar[_Layout | None] = ContextVar("layout", default=None)


@contextmanager
def attend_within_segments(
    segments: Sequence[Segment],
    device: torch.device,
    *,
    num_layers: int,
    allows_varlen: bool,
) -> Iterator[None]:
    """Within it, a model set to `PACKED` reads its input as a pack of these segments.

    Args:
        num_layers: how many layers have to attend through here.
        allows_varlen: whether PyTorch's variable-length flash attention is used where it can be.
    Raises:
        CannotPack: the model attends in a way that is not known here, or past it.
    """
    layout = _Layout(segments, device, allows_varlen=allows_varlen)
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)
    if layout.num_attended != num_layers:
        raise CannotPack(
            f"{layout.num_attended} of its {num_layers} layers attend in the usual way"
        )


def _mask_interface(**kwargs: Any) -> Any:
    """transformers asks for a mask per kind of layer; a pack answers with the layer's window."""
    if _layout.get() is None:
        return sdpa_mask(**kwargs)
    sees = kwargs["mask_function"]
    if sees is causal_mask_function:
        return _Window(None)
    window = kwargs.get("local_size")
    if window and not kwargs.get("use_vmap") and _is_sliding(sees, window):
        return _Window(window)
    return _UNKNOWN_MASK  # refused where a layer uses it; models make masks that none does


def _is_sliding(sees: Callable[..., Tensor], window: int) -> bool:
    """Whether the first token after a window sees all before it but one; in chunks it sees none."""
    zero = torch.tensor(0)
    return bool(
        sees(zero, zero, zero + window, zero + 1) and not sees(zero, zero, zero + window, zero)
    )


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Shapes: T tokens, Q heads of queries, K heads of keys, D per head.

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
        raise CannotPack("it makes its attention masks by itself")
    if kwargs.get("is_causal") is False or not getattr(module, "is_causal", True):
        raise CannotPack("its attention is not causal")
    unknown = {n for n, v in kwargs.items() if v is not None and n not in _KNOWN_ARGUMENTS}
    if unknown:
        raise CannotPack(f"its attention takes {', '.join(sorted(unknown))}")
    layout.num_attended += 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = attention_mask.size
    if layout.allows_varlen and _can_use_varlen(query, value, softcap):
        return _varlen(layout, query, key, value, window, scaling), None
    return _blockwise(layout, query, key, value, window, scaling, softcap), None


def _can_use_varlen(query: Tensor, value: Tensor, softcap: float | None) -> bool:
    """Whether PyTorch's variable-length flash attention takes these."""
    return (
        varlen_attn is not None
        and query.is_cuda
        and query.dtype in _FLASH_DTYPES
        and query.shape[-1] == value.shape[-1] <= _MAX_FLASH_HEAD_SIZE
        and not softcap
        and torch.cuda.get_device_capability(query.device) >= _FLASH_CAPABILITY
    )


def _varlen(
    layout: _Layout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    scaling: float,
) -> Tensor:
    """One kernel for all segments. With fewer queries than keys, causality ends at the last key."""
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


def _blockwise(
    layout: _Layout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Segment by segment, a block of queries at a time against the keys that it can see."""
    mask = layout.mask(window, query.dtype)
    last = mask.shape[1] - mask.shape[0]
    output = value.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
    for s in layout.segments:
        if s.context_stop in (s.context_start, s.start):  # contiguous, or no context at all
            first = s.start - s.num_context_tokens
            keys, values = key[:, :, first : s.stop], value[:, :, first : s.stop]
        else:
            context, own = slice(s.context_start, s.context_stop), slice(s.start, s.stop)
            keys, values = (torch.cat([x[:, :, context], x[:, :, own]], 2) for x in (key, value))
        for start in range(s.start, s.stop, _QUERY_BLOCK):
            stop = min(start + _QUERY_BLOCK, s.stop)
            seen_before = s.num_context_tokens + start - s.start
            hidden = 0 if window is None else max(0, seen_before - window + 1)
            visible = slice(hidden, seen_before + stop - start)
            attended = _attend(
                query[:, :, start:stop],
                keys[:, :, visible],
                values[:, :, visible],
                mask[: stop - start, last - seen_before + hidden : last + stop - start],
                scaling,
                softcap,
            )
            output[:, start:stop] = attended.transpose(1, 2)
    return output


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float | None
) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    if not softcap:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=grouped
        )
    # The fused kernels know no soft-capping of attention scores (Gemma 2).
    if grouped:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scaling / softcap)) * softcap + mask
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


AttentionInterface.register(PACKED, _attention)
AttentionMaskInterface.register(PACKED, _mask_interface)
