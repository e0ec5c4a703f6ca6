"""The scorer for models that vLLM runs, on one GPU or several.

Optional: `pip install -c constraints.txt -e '.[vllm]'`. Written against vLLM 0.29.0.

A sequence is given to vLLM as a prompt; see `sar.scoring.vllm_prompt_logprobs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sar.scoring.base import TokenSequence
from sar.scoring.vllm_import import import_vllm
from sar.scoring.vllm_prompt_logprobs import (
    ROOM_TOKENS,
    SAMPLING_ARGUMENTS,
    read_response_logprobs,
)

# Where vLLM falls back to its older model runner, logits of a whole prefill chunk exist at once, in
# the model's dtype and again in float32, in memory that it did not set aside: under 2 GiB for this
# many tokens and a vocabulary of 152k.
_MAX_PREFILL_TOKENS = 2048

_FIT_TO_MEMORY = -1


class VllmScorer:
    """A `LogprobScorer` over `vllm.LLM`. Not safe to share between threads."""

    def __init__(self, engine: Any, sampling_params: Any) -> None:
        """
        Args:
            engine: a `vllm.LLM` without prefix caching, with `logprobs_mode="raw_logprobs"`.
            sampling_params: `vllm.SamplingParams` of `SAMPLING_ARGUMENTS`.
        """
        self._engine = engine
        self._sampling_params = sampling_params

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        *,
        dtype: str = "auto",
        max_batch_tokens: int,
        tensor_parallel_size: int = 1,
        trust_remote_code: bool = False,
    ) -> VllmScorer:
        """Loads a local folder or hub id onto the GPUs that CUDA_VISIBLE_DEVICES names.

        Args:
            dtype: "auto" is the checkpoint's own, half precision for a float32 one; or float32,
                bfloat16, float16.
            max_batch_tokens: budget of tokens in one forward pass; at most 2,048 are used.
            tensor_parallel_size: GPUs that share the model.
        Raises:
            ValueError: vLLM is not installed.
        """
        vllm = import_vllm()
        engine = vllm.LLM(
            model=path_or_id,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            # With it, prompt log-probabilities depend on the order of requests (vLLM issue 42019).
            enable_prefix_caching=False,
            enable_chunked_prefill=True,
            max_num_batched_tokens=min(max_batch_tokens, _MAX_PREFILL_TOKENS),
            # The model's own context where its KV cache fits into memory, else as much as does.
            max_model_len=_FIT_TO_MEMORY,
            logprobs_mode="raw_logprobs",
        )
        return cls(engine, vllm.SamplingParams(**SAMPLING_ARGUMENTS))

    @property
    def max_context_tokens(self) -> int | None:
        """The longest prompt that vLLM takes."""
        return int(self._engine.model_config.max_model_len) - ROOM_TOKENS

    @property
    def description(self) -> str:
        """One line for logs: class, dtype, context, GPUs."""
        model = self._engine.model_config
        num_gpus = self._engine.llm_engine.vllm_config.parallel_config.tensor_parallel_size
        return (
            f"{', '.join(model.architectures)} in vLLM, {model.dtype}, "
            f"context {self.max_context_tokens} tokens, {num_gpus} GPU(s)"
        )

    @property
    def architecture(self) -> str:
        """What all checkpoints of one model have in common."""
        return ", ".join(self._engine.model_config.architectures)

    @property
    def has_room_for_copy(self) -> Callable[[], bool]:
        """vLLM takes all the memory that it is given."""
        return lambda: False

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        """See `LogprobScorer`.

        Raises:
            vllm.exceptions.VLLMValidationError: vLLM refuses a sequence, such as one longer than
                `max_context_tokens`; none is scored then.
            RuntimeError: vLLM did not answer for every token.
            FloatingPointError: a log-probability is not finite.
        """
        if not sequences:
            return []
        prompts = [{"prompt_token_ids": s.context_ids + s.response_ids} for s in sequences]
        outputs = self._engine.generate(prompts, self._sampling_params, use_tqdm=False)
        if len(outputs) != len(sequences):
            raise RuntimeError(f"vLLM gave {len(outputs)} results for {len(sequences)} sequences")
        return [
            read_response_logprobs(output.prompt_logprobs, sequence)
            for output, sequence in zip(outputs, sequences, strict=True)
        ]
