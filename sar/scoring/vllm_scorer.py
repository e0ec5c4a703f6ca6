"""The scorer for models that vLLM runs, on one GPU or several.

vLLM is optional: `pip install -c constraints.txt -e '.[vllm]'`. Written for vLLM 0.29.0.
How it gets log-probabilities from vLLM: `sar.scoring.vllm_prompt_logprobs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sar.scoring.base import TokenSequence
from sar.scoring.vllm_import import import_vllm
from sar.scoring.vllm_prompt_logprobs import ROOM_TOKENS, SAMPLING_ARGUMENTS, read_response_logprobs

# vLLM's older model runner computes the logits of a whole prefill chunk at once, in the model's
# dtype and in float32, in memory that it did not reserve. For 2048 tokens and a vocabulary of 152k,
# that is less than 2 GiB.
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
        """Loads a local folder or Hugging Face id onto the GPUs of CUDA_VISIBLE_DEVICES.

        Args:
            dtype: float32, bfloat16 or float16; "auto": the checkpoint's own dtype, but half
                precision for a float32 checkpoint.
            max_batch_tokens: maximum number of tokens in one forward pass; capped at 2,048.
            tensor_parallel_size: number of GPUs over which the model is split.
        Raises:
            ValueError: vLLM is not installed.
            RuntimeError: vLLM does not start. It refuses missing and unexpected tensors of an
                unquantised model, whose names its log has. It does not look for constant ones.
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
            # The model's own context length if its KV cache fits into memory, else what fits.
            max_model_len=_FIT_TO_MEMORY,
            logprobs_mode="raw_logprobs",
        )
        return cls(engine, vllm.SamplingParams(**SAMPLING_ARGUMENTS))

    @property
    def max_context_tokens(self) -> int | None:
        """Maximum length of a prompt for vLLM."""
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
    def architecture(self) -> dict[str, str]:
        """The same for all checkpoints of one model."""
        return {"class": ", ".join(self._engine.model_config.architectures)}

    def make_room_check(self) -> Callable[[], bool]:
        """Returns a function that is always False: vLLM reserves all memory that it may use."""
        return lambda: False

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        """See `LogprobScorer`.

        Raises:
            vllm.exceptions.VLLMValidationError: vLLM refuses a sequence, for example one longer
                than `max_context_tokens`. No sequence is scored then.
            RuntimeError: vLLM did not return a log-probability for every token.
            FloatingPointError: a log-probability is not finite.
        """
        if not sequences:
            return []
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
