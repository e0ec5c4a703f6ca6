"""Hugging Face transformers, on a CPU or GPU: batches of prompts of similar length.

Every row of a batch waits until the longest response is done. For large models and long responses
vLLM is many times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor

from eval.backends.base import BackendDescription, Completion, Completions, Request, Sampling
from eval.backends.chat_tokenizer import ChatTokenizer
from eval.errors import UserError
from sar.errors import one_line
from sar.scoring.transformers_scorer import resolve_device

# Number of batches that are sorted by length together.
_SORTED_BATCHES = 16


@dataclass(frozen=True)
class _Encoded:
    request: Request
    ids: list[int]


class TransformersBackend:
    """A `Backend` over `AutoModelForCausalLM`. Shapes: B rows, T tokens, V vocabulary."""

    def __init__(
        self, model: Any, tokenizer: ChatTokenizer, sampling: Sampling, batch_size: int
    ) -> None:
        """
        Args:
            model: a causal LM in eval mode, on its device. Its generation_config is replaced.
            batch_size: rows generated at once; halved if memory runs out.
        """
        from transformers import GenerationConfig

        self._model = model
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._batch_size = batch_size
        self._eos_ids = _find_eos_ids(model, tokenizer)
        # Otherwise sampling settings that come with the checkpoint would apply too.
        model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=sorted(self._eos_ids) or None,
            pad_token_id=tokenizer.pad_token_id,
        )
        self._warp = _make_warper(sampling)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        *,
        sampling: Sampling,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 32,
        enable_thinking: bool | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Loads a local folder or Hugging Face id.

        Args:
            device: a torch device; "auto" is CUDA if available, else the CPU.
            dtype: a torch dtype; "auto" is float32 on a CPU, else the checkpoint's own.
        Raises:
            UserError: the model cannot be loaded, or there is no such device.
        """
        from transformers import AutoModelForCausalLM

        try:
            target = resolve_device(device)
        except ValueError as error:
            raise UserError(f"--device {device}: {error}") from error
        tokenizer = ChatTokenizer.from_pretrained(
            path_or_id, enable_thinking=enable_thinking, trust_remote_code=trust_remote_code
        )
        if dtype == "auto" and target.type == "cpu":
            dtype = "float32"
        try:
            model = AutoModelForCausalLM.from_pretrained(
                path_or_id, dtype=dtype, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # a broken folder raises many types
            raise UserError(f"cannot load --model {path_or_id}: {one_line(error)}") from error
        return cls(model.to(target).eval(), tokenizer, sampling, batch_size)

    @property
    def description(self) -> BackendDescription:
        model = self._model
        details = {
            "class": type(model).__name__,
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "dtype": str(model.dtype),
            "device": str(model.device),
            "commit": getattr(model.config, "_commit_hash", None),
            "context_tokens": self._context_tokens,
        }
        return BackendDescription(self._tokenizer.chat_template, details)

    def render_prompt(self, system_prompt: str, user_turn: str) -> str:
        return self._tokenizer.render_prompt(system_prompt, user_turn)

    def generate(self, requests: Iterable[Request]) -> Completions:
        waiting = iter(requests)
        while window := list(islice(waiting, self._batch_size * _SORTED_BATCHES)):
            encoded = [_Encoded(r, self._tokenizer.encode(r.prompt)) for r in window]
            # Longest first: if memory runs out, it does so at once.
            encoded.sort(key=lambda e: -len(e.ids))
            fitting = [e for e in encoded if self._max_new_tokens(e) > 0]
            yield from map(self._refuse, encoded[: len(encoded) - len(fitting)])
            for start in range(0, len(fitting), self._batch_size):
                yield from self._complete(fitting[start : start + self._batch_size])

    def close(self) -> None:
        pass

    @property
    def _context_tokens(self) -> int | None:
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return int(limit) if limit else None

    def _max_new_tokens(self, encoded: _Encoded) -> int:
        """Maximum tokens of this prompt's response; 0 or less if it cannot have one."""
        limit = self._context_tokens
        room = limit - len(encoded.ids) if limit else self._sampling.max_tokens
        return min(self._sampling.max_tokens, room) if encoded.ids else 0

    def _refuse(self, encoded: _Encoded) -> Completion:
        return Completion(
            encoded.request,
            error=f"a prompt of {len(encoded.ids)} tokens leaves no room for a response in the "
            f"model's context of {self._context_tokens}",
        )

    def _complete(self, batch: Sequence[_Encoded]) -> list[Completion]:
        try:
            new_BT = self._generate_tokens(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                return [Completion(batch[0].request, error=one_line(error))]
        else:
            completions: list[Completion] = []
            for encoded, row in zip(batch, new_BT.tolist(), strict=True):
                completion = self._make_completion(encoded.request, row)
                # The batch's longest prompt limits the length of all rows. A row that this limit
                # truncated is generated again, alone.
                is_truncated = completion.finish_reason == "length"
                if is_truncated and len(row) < self._max_new_tokens(encoded) and len(batch) > 1:
                    completions += self._complete([encoded])
                else:
                    completions.append(completion)
            return completions
        # Outside the except block, because there the traceback still holds the memory.
        torch.cuda.empty_cache()
        half = len(batch) // 2
        return [*self._complete(batch[:half]), *self._complete(batch[half:])]

    def _generate_tokens(self, batch: Sequence[_Encoded]) -> Tensor:
        """(B, T) token ids of the responses, padded on the right."""
        length = max(len(e.ids) for e in batch)
        pad = self._tokenizer.pad_token_id
        ids_BT = torch.tensor([[pad] * (length - len(e.ids)) + e.ids for e in batch])
        mask_BT = torch.tensor([[0] * (length - len(e.ids)) + [1] * len(e.ids) for e in batch])
        processors = []
        if not self._sampling.is_greedy:
            seeds = [e.request.seed for e in batch if e.request.seed is not None]
            processors = [SeededSampler(seeds, self._warp, self._model.device)]
        with torch.inference_mode():
            all_BT = self._model.generate(
                input_ids=ids_BT.to(self._model.device),
                attention_mask=mask_BT.to(self._model.device),
                logits_processor=processors,
                max_new_tokens=min(self._max_new_tokens(e) for e in batch),
            )
        new_BT: Tensor = all_BT[:, length:].cpu()
        return new_BT

    def _make_completion(self, request: Request, row: Sequence[int]) -> Completion:
        end = next((i for i, id_ in enumerate(row) if id_ in self._eos_ids), None)
        ids = row if end is None else row[: end + 1]
        return Completion(
            request,
            response=self._tokenizer.decode(ids),
            num_tokens=len(ids),
            finish_reason="length" if end is None else "stop",
        )


class SeededSampler:
    """A logits processor that makes greedy decoding sample, with a seed of its own for each row.

    It uses the Gumbel-max trick: argmax(log p - log e), with e drawn from the exponential
    distribution, is a sample of p. Up to rounding, a row's sample does not depend on the other
    rows of its batch.
    """

    def __init__(
        self, seeds: Sequence[int], warp: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        self._generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
        self._warp = warp

    def __call__(self, input_ids: Tensor, scores_BV: Tensor) -> Tensor:
        noise_BV = torch.empty_like(scores_BV, dtype=torch.float32)
        for noise_V, generator in zip(noise_BV, self._generators, strict=True):
            noise_V.exponential_(generator=generator)
        return self._warp(scores_BV.float()) - noise_BV.clamp_min_(1e-30).log_()


def _make_warper(sampling: Sampling) -> Callable[[Tensor], Tensor]:
    """Returns a function that applies temperature and top-p to logits."""
    from transformers import TopPLogitsWarper

    top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None

    def warp(scores_BV: Tensor) -> Tensor:
        scaled_BV = scores_BV / sampling.temperature
        return scaled_BV if top_p is None else top_p(None, scaled_BV)

    return warp


def _find_eos_ids(model: Any, tokenizer: ChatTokenizer) -> set[int]:
    """Ids of tokens that end a response: those of the checkpoint and the tokenizer's."""
    stated = model.generation_config.eos_token_id
    ids = stated if isinstance(stated, list) else [stated]
    return {int(id_) for id_ in [*ids, tokenizer.eos_token_id] if id_ is not None}
