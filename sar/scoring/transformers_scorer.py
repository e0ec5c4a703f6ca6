"""The scorer for any causal language model of Hugging Face transformers.

Three things bound its memory:
1. The model's body runs on packs of at most `max_batch_tokens` tokens.
2. Only the hidden states that predict a response token are kept.
3. The output head computes logits in chunks: no (tokens x vocabulary) tensor of a pack exists.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sar.errors import first_line
from sar.memory import free_memory_bytes
from sar.scoring.base import ScoringPath, TokenSequence
from sar.scoring.checkpoint import describe_architecture, load_model, raise_if_untrained
from sar.scoring.output_head import OutputHead
from sar.scoring.packed_attention import PACKED, attend_within_segments
from sar.scoring.packing import Pack, plan_packs
from sar.scoring.precision import cpu_has_bfloat16, is_small
from sar.scoring.probe import ProbeText, read_probe_text
from sar.scoring.self_check import SelfCheck

# Bytes of float32 logits in one chunk; computing with them takes as much memory again. On a GPU,
# few rows would leave most of it idle.
_GPU_LOGITS_BYTES = 512 * 2**20
# On a CPU, the head runs on one block of the vocabulary at a time, whose weights stay in the caches
# while 1024 rows use them. Twice or four times as many words or rows are no faster.
_CPU_BLOCK_WORDS = 1024
_CPU_BLOCK_BYTES = 4 * 1024 * _CPU_BLOCK_WORDS
# The same for a head that cannot be divided. glibc keeps freed blocks of up to 32 MiB for later
# use. It returns larger ones to the system, and the next use pays for their page faults again.
_CPU_LOGITS_BYTES = 31 * 2**20
# On a CPU, more tokens in one pass are no faster: their activations do not fit into the caches.
_CPU_PACK_TOKENS = 2048
# A model needs this many times the memory of its weights while it is loaded.
_LOADING_FACTOR = 1.2
# A token budget too small for two sequences, so that each is scored alone.
_ALONE = 1
# Enough for a whole probe in one pack.
_PROBE_PACK_TOKENS = 1000

_log = logging.getLogger(__name__)


class _Attention(enum.Enum):
    """How attention is kept within each sequence. Tried in this order, the fastest first."""

    VARLEN = enum.auto()
    """One kernel for all sequences. Faster, but needs CUDA and half precision."""
    BLOCKWISE = enum.auto()
    """Sequence by sequence. Runs everywhere."""


_PATH_NAMES: dict[_Attention | None, Literal["varlen", "packed", "unpacked"]] = {
    _Attention.VARLEN: "varlen",
    _Attention.BLOCKWISE: "packed",
    None: "unpacked",
}


class TransformersScorer:
    """A `LogprobScorer` over `AutoModelForCausalLM`.

    Not safe to share between threads.
    Shapes: T tokens of a pack, N response tokens, C of them in one chunk, H hidden, V vocabulary.
    """

    def __init__(
        self, model: Any, max_batch_tokens: int, *, probe_text: ProbeText | None = None
    ) -> None:
        """
        Args:
            model: a causal LM in eval mode, on its device. The scorer replaces its attention.
            max_batch_tokens: maximum number of tokens in one forward pass.
            probe_text: what the model is checked on; None: text of its own.
        Raises:
            ValueError: the model's body and output head cannot be run separately, or its
                log-probabilities depend on what it scored before.
        """
        self._model = model
        if model.base_model is model:
            raise ValueError(
                f"cannot score with {type(model).__name__}: it has no body separate from its head"
            )
        self._body = model.base_model
        self._head = OutputHead(model)
        self._max_pack_tokens, self._logits_bytes = max_batch_tokens, _GPU_LOGITS_BYTES
        if model.device.type == "cpu":
            self._max_pack_tokens = min(max_batch_tokens, _CPU_PACK_TOKENS)
            is_divided = self._head.divide(_CPU_BLOCK_WORDS)
            self._logits_bytes = _CPU_BLOCK_BYTES if is_divided else _CPU_LOGITS_BYTES
        self._long_tokens = _find_long_rope_limit(model)
        self.scoring_path: ScoringPath
        """Which way of scoring runs, and why no faster one."""
        self._attention = self._choose_attention(probe_text)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_tokens: int,
        trust_remote_code: bool = False,
    ) -> TransformersScorer:
        """Loads a model from a local folder or by its Hugging Face id.

        Args:
            device: a torch device; "auto": CUDA if there is a GPU, else the CPU.
            dtype: a torch dtype; "auto": the checkpoint's own dtype on a GPU. On a CPU, bfloat16 if
                the CPU has instructions for it and the model is not small, else float32.
        Raises:
            ValueError: there is no such device, the checkpoint is not the whole model, no trained
                model has such weights, or this scorer does not support the model.
        """
        target = resolve_device(device)
        chosen = dtype
        if dtype == "auto" and target.type == "cpu":
            chosen = "bfloat16" if cpu_has_bfloat16() else "float32"
        model = load_model(path_or_id, dtype=chosen, trust_remote_code=trust_remote_code)
        if dtype == "auto" and chosen == "bfloat16" and is_small(model):
            model = load_model(path_or_id, dtype="float32", trust_remote_code=trust_remote_code)
        model = model.to(target).eval()
        raise_if_untrained(model)
        probe_text = read_probe_text(path_or_id, trust_remote_code=trust_remote_code)
        return cls(model, max_batch_tokens, probe_text=probe_text)

    @property
    def max_context_tokens(self) -> int | None:
        """See `LogprobScorer`."""
        config = self._model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        return int(limit) if limit else None

    @property
    def description(self) -> str:
        """One line for logs: class, size, dtype, device."""
        size = f"{sum(p.numel() for p in self._model.parameters()) / 1e6:.1f}M parameters"
        return f"{type(self._model).__name__}, {size}, {self._model.dtype}, {self._model.device}"

    @property
    def architecture(self) -> dict[str, str]:
        """Class, sizes and settings by name: the same for all checkpoints of one model."""
        return describe_architecture(self._model)

    def make_room_check(self) -> Callable[..., bool]:
        """Returns a function that tells whether free memory has room for another such model, or for
        as many as its argument says.

        The function does not keep this scorer's model in memory.
        """
        num_bytes = sum(p.numel() * p.element_size() for p in self._model.parameters())
        device = self._model.device
        return lambda num_copies=1: (
            num_copies * num_bytes * _LOADING_FACTOR < _measure_free_bytes(device)
        )

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        """See `LogprobScorer`."""
        return self._score(sequences, self._max_pack_tokens)

    def _score(
        self, sequences: Sequence[TokenSequence], max_tokens: int
    ) -> list[npt.NDArray[np.float32]]:
        results: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(sequences)
        budget = max_tokens if self._attention else _ALONE
        for pack in plan_packs(sequences, budget, self._long_tokens):
            members = [sequences[index] for index in pack.members]
            scored = self._score_pack_if_memory_allows(pack, members)
            if scored is None:
                scored = self._score(members, pack.num_tokens // 2)
            for index, scores in zip(pack.members, scored, strict=True):
                results[index] = scores
        return results

    def _score_pack_if_memory_allows(
        self, pack: Pack, members: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]] | None:
        """Scores a pack. None: memory ran out, and the pack can be divided."""
        try:
            return self._score_pack(pack, members)
        except (RuntimeError, MemoryError) as error:
            if len(pack.members) == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler: the exception keeps the tensors of its stack frames in memory.
        _log.warning(
            "out of memory with %d tokens in a forward pass: trying again with half of them; "
            "a lower --max-batch-tokens avoids this",
            pack.num_tokens,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _score_pack(
        self, pack: Pack, members: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        device = self._model.device
        inputs = {"input_ids": torch.from_numpy(pack.token_ids_T)[None].to(device)}
        attention: AbstractContextManager[None] = nullcontext()
        if self._attention:
            inputs["position_ids"] = torch.from_numpy(pack.positions_T)[None].to(device)
            # Without a mask, transformers itself derives packed sequences from the positions.
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            attention = attend_within_segments(
                pack.segments,
                device,
                num_layers=self._model.config.get_text_config().num_hidden_layers,
                allows_varlen=self._attention is _Attention.VARLEN,
            )
        with attention:
            body = self._body(**inputs, use_cache=False, return_dict=True)
        predictors_N = torch.from_numpy(pack.predictors_N).to(device)
        hidden_NH = body.last_hidden_state[0].index_select(0, predictors_N)
        body.last_hidden_state = None  # Frees (T, H) before the head runs.
        targets_N = torch.from_numpy(pack.targets_N).to(device)
        certainty_N = None
        if any(member.wants_certainty for member in members):
            certainty_N = torch.empty(len(targets_N), dtype=torch.float32, device=device)
        logprobs_N = self._target_logprobs(hidden_NH, targets_N, body, certainty_N).cpu()
        scores = [logprobs_T.numpy() for logprobs_T in logprobs_N.split(pack.response_lengths)]
        if certainty_N is not None:
            certainties = certainty_N.cpu().split(pack.response_lengths)
            for index, member in enumerate(members):
                if member.wants_certainty:
                    scores[index] = np.stack([scores[index], certainties[index].numpy()])
        return scores

    def _target_logprobs(
        self,
        hidden_NH: Tensor,
        targets_N: Tensor,
        body: Any,
        certainty_N: Tensor | None = None,
    ) -> Tensor:
        """(N,) float32 log-probabilities of the targets, computed in chunks of C rows.

        Args:
            certainty_N: gets the self-certainties; None: they are not computed.
        """
        rows = max(1, self._logits_bytes // (4 * self._head.num_words))
        # Allocated before the loop: small results between the logits of two chunks would keep the
        # allocator from reusing the logits' memory.
        # With its dtype: transformers changes the default of all threads while it loads a model.
        logprobs_N = torch.empty(len(targets_N), dtype=torch.float32, device=targets_N.device)
        for start in range(0, len(targets_N), rows):
            chunk = slice(start, start + rows)
            certainty_C = None if certainty_N is None else certainty_N[chunk]
            logprobs_N[chunk] = self._head.target_logprobs(
                hidden_NH[chunk], targets_N[chunk], body, certainty_C
            )
        return logprobs_N

    def _choose_attention(self, probe_text: ProbeText | None) -> _Attention | None:
        """Chooses the fastest attention that scores a few sequences as the whole model does.

        None: there is none, so each sequence has to be scored alone.

        Raises:
            ValueError: scoring is wrong even without packing.
        """
        if getattr(self._model.config.get_text_config(), "attn_logit_softcapping", None):
            # transformers' fused attention ignores the soft-capping of Gemma 2 without a warning.
            self._model.set_attn_implementation("eager")
        implementation = self._model.config._attn_implementation
        check = SelfCheck(self._model, probe_text)
        reason = self._try_attention(None, check)
        if reason and self._head.is_divided:
            self._head.join()
            self._logits_bytes = _CPU_LOGITS_BYTES
            reason = self._try_attention(None, check)
        if reason:
            raise ValueError(f"cannot score with {type(self._model).__name__}: {reason}")
        self._model.set_attn_implementation(PACKED)
        is_cuda = self._model.device.type == "cuda"
        reasons = [] if is_cuda else ["varlen: only on a GPU"]
        for attention in list(_Attention) if is_cuda else [_Attention.BLOCKWISE]:
            if not (reason := self._try_attention(attention, check)):
                break
            reasons.append(f"{_PATH_NAMES[attention]}: {reason}")
        else:
            self._model.set_attn_implementation(implementation)
            attention = None
        self.scoring_path = ScoringPath(_PATH_NAMES[attention], "; ".join(reasons))
        if not attention:
            _log.warning(
                "%s cannot be packed (%s): its sequences are scored one at a time, which is slow",
                type(self._model).__name__,
                reason,
            )
        return attention

    def _try_attention(self, attention: _Attention | None, check: SelfCheck) -> str:
        """Switches to this attention; None scores each sequence alone.

        Returns why it is wrong for the model; empty if it is right.
        """
        self._attention = attention
        try:
            return check.find_fault(lambda sequences: self._score(sequences, _PROBE_PACK_TOKENS))
        except Exception as error:  # a model that does not support this can raise anything
            if is_out_of_memory(error):
                raise
            return first_line(error)


def _find_long_rope_limit(model: Any) -> float:
    """Number of tokens above which a model with "longrope" changes its rotary embeddings, for all
    sequences of a forward pass. Infinite for other models.

    Raises:
        ValueError: the embeddings depend on earlier forward passes too.
    """
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    # Some models have separate parameters for each kind of layer.
    kinds = [parameters, *(v for v in parameters.values() if isinstance(v, dict))]
    if any(kind.get("rope_type") == "dynamic" for kind in kinds):
        raise ValueError(
            f"cannot score with {type(model).__name__}: its dynamic rotary embeddings depend on "
            "what was scored before"
        )
    limits = [
        kind.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type") == "longrope"
    ]
    return min(limits, default=math.inf)


def _measure_free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that PyTorch has reserved but does not use is free as well.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_memory_bytes()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of PyTorch or Python says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)  # on a CPU, PyTorch raises a plain RuntimeError
    )


def resolve_device(device: str) -> torch.device:
    """The torch device of this name; "auto": CUDA if there is a GPU, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {device!r} on this machine: {first_line(error)}") from error
    return torch.device(device)
