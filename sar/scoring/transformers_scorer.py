"""The scorer for any causal language model of Hugging Face transformers.

Memory is bounded by the token budget: the transformer body runs on packs of at most
`max_batch_tokens`, only hidden states at response positions are kept, and the output head sees them
in chunks, so that no (tokens x vocabulary) tensor of a pack ever exists.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sar.errors import first_line
from sar.memory import free_memory_bytes
from sar.scoring.base import TokenSequence
from sar.scoring.output_head import OutputHead
from sar.scoring.packed_attention import PACKED, attend_within_segments
from sar.scoring.packing import Pack, plan_packs

# float32 logits held at once, and as much again for what is made of them. A GPU needs many rows at
# once to be busy. On a CPU a block of the vocabulary stays in the caches, and enough rows share the
# reading of its weights; 2 or 4 times as many words or rows are no faster.
_GPU_LOGITS_BYTES = 512 * 2**20
_CPU_BLOCK_WORDS = 1024
_CPU_BLOCK_BYTES = 4 * 1024 * _CPU_BLOCK_WORDS
# Where the vocabulary cannot be divided: just under the 32 MiB up to which glibc uses freed blocks
# again. Larger ones go back to the system, and their pages are faulted in anew each time.
_CPU_LOGITS_BYTES = 31 * 2**20
# On a CPU more tokens at once are no faster, and their activations fall out of the caches.
_CPU_PACK_TOKENS = 2048
# Loading takes some memory besides.
_ROOM_FOR_WEIGHTS = 1.2
# A budget that every sequence exceeds.
_ALONE = 1
# Nats. Nothing but the grouping of experts, which rounds otherwise, may cross from one sequence of
# a pack to another.
_MAX_LEAK = 1e-5

_log = logging.getLogger(__name__)


class _Attention(enum.Enum):
    """How the sequences of a pack are kept apart, the faster first."""

    VARLEN = enum.auto()
    """One kernel for all, where PyTorch has it: on CUDA, in half precision."""
    BLOCKWISE = enum.auto()


class TransformersScorer:
    """A `LogprobScorer` over `AutoModelForCausalLM`.

    Shapes: T tokens of a pack, N of them predict a response token, C of them at once at the head,
    H hidden, V vocabulary.
    """

    def __init__(self, model: Any, max_batch_tokens: int) -> None:
        """
        Args:
            model: a causal LM in eval mode, on its device. It is taken over: its attention is
                replaced by one that packs.
            max_batch_tokens: budget of tokens in one forward pass.
        Raises:
            ValueError: the model's output head cannot be run apart from its body.
        """
        self._model = model
        if model.base_model is model:
            raise ValueError(
                f"cannot score with {type(model).__name__}: its body cannot be told from its head"
            )
        self._body = model.base_model
        self._head = OutputHead(model)
        on_cpu = model.device.type == "cpu"
        self._max_pack_tokens = (
            min(max_batch_tokens, _CPU_PACK_TOKENS) if on_cpu else max_batch_tokens
        )
        self._logits_bytes = _CPU_LOGITS_BYTES if on_cpu else _GPU_LOGITS_BYTES
        if on_cpu and self._head.divide(_CPU_BLOCK_WORDS):
            self._logits_bytes = _CPU_BLOCK_BYTES
        self._long_tokens = _long_rope_tokens(model)
        self._attention = self._choose_attention()

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
        """Loads a local folder or hub id.

        Args:
            device: "auto" takes CUDA if there is one, else the CPU; or a torch device.
            dtype: "auto" is float32 on a CPU and the checkpoint's own elsewhere; or a torch dtype.
        """
        from transformers import AutoModelForCausalLM

        target = resolve_device(device)
        if dtype == "auto" and target.type == "cpu":
            dtype = "float32"
        model = AutoModelForCausalLM.from_pretrained(
            path_or_id, dtype=dtype, trust_remote_code=trust_remote_code
        )
        return cls(model.to(target).eval(), max_batch_tokens)

    @property
    def max_context_tokens(self) -> int | None:
        config = self._model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        return int(limit) if limit else None

    @property
    def description(self) -> str:
        """One line for logs: class, size, dtype, device."""
        millions = sum(p.numel() for p in self._model.parameters()) / 1e6
        name = type(self._model).__name__
        return f"{name}, {millions:.1f}M parameters, {self._model.dtype}, {self._model.device}"

    @property
    def architecture(self) -> str:
        """What all checkpoints of one model have in common."""
        num_parameters = sum(p.numel() for p in self._model.parameters())
        return f"{type(self._model).__name__} of {num_parameters:,} parameters"

    @property
    def has_room_for_copy(self) -> Callable[[], bool]:
        """Says whether the weights of another such model fit into free memory beside this one's; it
        does not hold these."""
        num_bytes = sum(p.numel() * p.element_size() for p in self._model.parameters())
        device = self._model.device
        return lambda: num_bytes * _ROOM_FOR_WEIGHTS < _free_bytes(device)

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        return self._score(sequences, self._max_pack_tokens)

    def _score(
        self, sequences: Sequence[TokenSequence], max_tokens: int
    ) -> list[npt.NDArray[np.float32]]:
        results: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(sequences)
        budget = max_tokens if self._attention else _ALONE
        for pack in plan_packs(sequences, budget, self._long_tokens):
            scored = self._score_pack_if_memory_allows(pack)
            if scored is None:
                half = [sequences[index] for index in pack.members]
                scored = self._score(half, pack.num_tokens // 2)
            for index, logprobs_T in zip(pack.members, scored, strict=True):
                results[index] = logprobs_T
        return results

    def _score_pack_if_memory_allows(self, pack: Pack) -> list[npt.NDArray[np.float32]] | None:
        """None: out of memory, and the pack can be divided."""
        try:
            return self._score_pack(pack)
        except (RuntimeError, MemoryError) as error:
            if len(pack.members) == 1 or not _is_out_of_memory(error):
                raise
        # Outside of the handler, as the exception holds on to the tensors of its frames.
        _log.warning(
            "out of memory with %d tokens in a forward pass: going on with half of them; "
            "a lower --max-batch-tokens avoids the detour",
            pack.num_tokens,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _score_pack(self, pack: Pack) -> list[npt.NDArray[np.float32]]:
        device = self._model.device
        inputs = {"input_ids": torch.from_numpy(pack.token_ids_T)[None].to(device)}
        attending: AbstractContextManager[None] = nullcontext()
        if self._attention:
            inputs["position_ids"] = torch.from_numpy(pack.positions_T)[None].to(device)
            # Without it, transformers looks for packed sequences in the positions by itself.
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            attending = attend_within_segments(
                pack.segments,
                device,
                num_layers=self._model.config.get_text_config().num_hidden_layers,
                allows_varlen=self._attention is _Attention.VARLEN,
            )
        with attending:
            body = self._body(**inputs, use_cache=False, return_dict=True)
        predictors_N = torch.from_numpy(pack.predictors_N).to(device)
        hidden_NH = body.last_hidden_state[0].index_select(0, predictors_N)
        body.last_hidden_state = None  # frees (T, H) before the head runs
        targets_N = torch.from_numpy(pack.targets_N).to(device)
        logprobs_N = self._target_logprobs(hidden_NH, targets_N, body).cpu()
        return [logprobs_T.numpy() for logprobs_T in logprobs_N.split(pack.response_lengths)]

    def _target_logprobs(self, hidden_NH: Tensor, targets_N: Tensor, body: Any) -> Tensor:
        """(N,) float32 log-probabilities of the targets, a chunk of positions at a time."""
        rows = max(1, self._logits_bytes // (4 * self._head.num_words))
        # Made before the loop: small results between the logits of two chunks would keep the
        # allocator from using their memory again.
        logprobs_N = torch.empty(len(targets_N), device=targets_N.device)
        for hidden_CH, targets_C, logprobs_C in zip(
            hidden_NH.split(rows), targets_N.split(rows), logprobs_N.split(rows), strict=True
        ):
            logprobs_C.copy_(self._head.target_logprobs(hidden_CH, targets_C, body))
        return logprobs_N

    def _choose_attention(self) -> _Attention | None:
        """The first way of packing that gives what the whole model gives, one sequence at a time.

        Raises:
            ValueError: none does, not even without packing: the head cannot run apart.
        """
        probe = _probe(first_response=[5, 6, 7, 3, 2])
        if getattr(self._model.config.get_text_config(), "attn_logit_softcapping", None):
            # transformers' fused attention drops the soft-capping of Gemma 2 without a word.
            self._model.set_attn_implementation("eager")
        implementation = self._model.config._attn_implementation
        expected = [self._logprobs_of_whole_model(sequence) for sequence in probe]
        reason = self._mismatch(None, probe, expected)
        if reason and self._head.is_divided:
            self._head.join()
            self._logits_bytes = _CPU_LOGITS_BYTES
            reason = self._mismatch(None, probe, expected)
        if reason:
            raise ValueError(f"cannot score with {type(self._model).__name__}: {reason}")
        self._model.set_attn_implementation(PACKED)
        candidates = [_Attention.BLOCKWISE]
        if self._model.device.type == "cuda":
            candidates.insert(0, _Attention.VARLEN)
        for attention in candidates:
            if not (reason := self._mismatch(attention, probe, expected)):
                return attention
        self._model.set_attn_implementation(implementation)
        _log.warning(
            "%s cannot be packed (%s): its sequences are scored one at a time, which is slow",
            type(self._model).__name__,
            reason,
        )
        return None

    def _mismatch(
        self,
        attention: _Attention | None,
        probe: list[TokenSequence],
        expected: list[npt.NDArray[np.float32]],
    ) -> str:
        """Why scoring this way is not right for the model; empty if it is."""
        self._attention = attention
        try:
            got = self._score(probe, 1000)
            # The same layout: only what crosses from one sequence to another can make a difference.
            beside_another = self._score(_probe(first_response=[1, 1, 4, 7, 6]), 1000)
        except Exception as error:  # whatever a model raises where it is not made for this
            if _is_out_of_memory(error):
                raise
            return first_line(error)
        off = np.abs(np.concatenate(got) - np.concatenate(expected)).mean()
        # Not-a-number fails too.
        if not off <= (1e-4 if self._model.dtype == torch.float32 else 5e-2):
            return f"log-probabilities are off by {off:.2g} from those of the whole model"
        leak = np.abs(np.concatenate(got[1:]) - np.concatenate(beside_another[1:])).max()
        return f"sequences change each other by {leak:.2g}" if leak > _MAX_LEAK else ""

    @torch.inference_mode()
    def _logprobs_of_whole_model(self, sequence: TokenSequence) -> npt.NDArray[np.float32]:
        ids_T = torch.tensor(sequence.context_ids + sequence.response_ids)
        ids_BT = ids_T[None].to(self._model.device)
        logits_TV = self._model(input_ids=ids_BT, use_cache=False).logits[0].float().cpu()
        logprobs_T = logits_TV[:-1].log_softmax(1).gather(1, ids_T[1:, None])[:, 0]
        return np.asarray(logprobs_T[-len(sequence.response_ids) :])


def _probe(first_response: list[int]) -> list[TokenSequence]:
    """A few sequences, some with a context in common."""
    others = [
        TokenSequence(context, response)
        for context in ([1, 2, 3], [4])
        for response in ([2, 1], [4, 6, 5, 3, 7])
    ]
    return [TokenSequence([1, 2, 3], first_response), *others]


def _long_rope_tokens(model: Any) -> float:
    """Where a model's rotary embeddings depend on the longest sequence of a forward pass: the
    length from which on they are others.

    Raises:
        ValueError: they depend on earlier passes too.
    """
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    # Some models have them per kind of layer.
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


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What PyTorch keeps for later use is free as well.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_memory_bytes()


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)  # PyTorch's on a CPU, a plain RuntimeError
    )


def resolve_device(device: str) -> torch.device:
    """A torch device from its name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {device!r} here: {first_line(error)}") from error
    return torch.device(device)
