"""The scorer for models that vLLM runs, on one GPU or several, or on a CPU.

vLLM is optional: `pip install -c constraints.txt -e '.[vllm]'`. Written for vLLM 0.29.0.
How it gets log-probabilities from vLLM: `sar.scoring.vllm_prompt_logprobs`. The server runs it in a
process of its own: `sar.scoring.vllm_process`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sar.scoring.base import TokenSequence
from sar.scoring.vllm_import import import_vllm
from sar.scoring.vllm_prompt_logprobs import (
    ROOM_TOKENS,
    SAMPLING_ARGUMENTS,
    read_response_logprobs,
    refuse_certainty,
)

# vLLM's older model runner computes the logits of a whole prefill chunk at once, in the model's
# dtype and in float32, in memory that it did not reserve. For 2048 tokens and a vocabulary of 152k,
# that is less than 2 GiB.
_MAX_PREFILL_TOKENS = 2048

_FIT_TO_MEMORY = -1

DEFAULT_MEMORY_SHARE = 0.92
"""vLLM's own default."""


class EngineFacts(NamedTuple):
    """What is known of an engine once it has started."""

    max_model_len: int
    """Its context, which may be shorter than the model's to fit into memory."""
    memory_share: float
    description: str
    """One line for logs: class, dtype, context, devices."""

    @property
    def max_context_tokens(self) -> int:
        """Maximum length of a prompt."""
        return self.max_model_len - ROOM_TOKENS


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
        max_model_len: int = _FIT_TO_MEMORY,
        memory_share: float = DEFAULT_MEMORY_SHARE,
        tensor_parallel_size: int = 1,
        trust_remote_code: bool = False,
    ) -> VllmScorer:
        """Loads a local folder or Hugging Face id onto the GPUs of CUDA_VISIBLE_DEVICES, or, with a
        vLLM for CPUs, into memory.

        Args:
            dtype: float32, bfloat16 or float16; "auto": the checkpoint's own dtype, but half
                precision for a float32 checkpoint.
            max_batch_tokens: maximum number of tokens in one forward pass; capped at 2,048.
            max_model_len: context; by default the model's own if its KV cache fits into memory,
                else what fits.
            memory_share: share of each GPU's memory, or of the machine's, for weights and KV cache.
            tensor_parallel_size: number of GPUs over which the model is split.
        Raises:
            ValueError: vLLM is not installed.
            Exception: of any kind; vLLM does not start.
        """
        vllm = import_vllm()
        engine = vllm.LLM(
            model=path_or_id,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            # Prefix caching makes prompt log-probabilities depend on the order of requests (vLLM
            # issue 42019).
            enable_prefix_caching=False,
            enable_chunked_prefill=True,
            max_num_batched_tokens=min(max_batch_tokens, _MAX_PREFILL_TOKENS),
            max_model_len=max_model_len,
            gpu_memory_utilization=memory_share,
            # CUDA graphs speed up generation, and here is none. Without them, and without
            # compilation, vLLM starts faster, which it does for each checkpoint.
            enforce_eager=True,
            logprobs_mode="raw_logprobs",
        )
        return cls(engine, vllm.SamplingParams(**SAMPLING_ARGUMENTS))

    @property
    def max_context_tokens(self) -> int | None:
        """Maximum length of a prompt for vLLM."""
        return self.facts.max_context_tokens

    @property
    def facts(self) -> EngineFacts:
        """What is known of the engine."""
        config = self._engine.llm_engine.vllm_config
        model, num_gpus = config.model_config, config.parallel_config.tensor_parallel_size
        on_cpu = config.device_config.device_type == "cpu"
        description = (
            f"{', '.join(model.architectures)} in vLLM, {model.dtype}, "
            f"context {model.max_model_len - ROOM_TOKENS} tokens, "
            f"{'CPU' if on_cpu else f'{num_gpus} GPU(s)'}"
        )
        share = config.cache_config.gpu_memory_utilization
        return EngineFacts(int(model.max_model_len), float(share), description)

    @staticmethod
    def is_refusal(error: Exception) -> bool:
        """Whether vLLM refused a sequence, such as one that is too long, and can go on."""
        from vllm.exceptions import VLLMValidationError

        return isinstance(error, VLLMValidationError)

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        """See `LogprobScorer`.

        Raises:
            vllm.exceptions.VLLMValidationError: vLLM refuses a sequence, for example one longer
                than `max_context_tokens`. No sequence is scored then.
            RuntimeError: vLLM did not return a log-probability for every token.
            FloatingPointError: a log-probability is not finite.
            ValueError: a sequence asks for self-certainty.
        """
        if not sequences:
            return []
        refuse_certainty(sequences)
        prompts = [{"prompt_token_ids": s.context_ids + s.response_ids} for s in sequences]
        outputs = self._engine.generate(prompts, self._sampling_params, use_tqdm=False)
        if len(outputs) != len(sequences):
            raise RuntimeError(
                f"vLLM returned {len(outputs)} results for {len(sequences)} sequences"
            )
        return [
            read_response_logprobs(output.prompt_logprobs, sequence)
            for output, sequence in zip(outputs, sequences, strict=True)
        ]
