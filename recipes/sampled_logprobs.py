"""The log-probabilities that vLLM returns with the tokens that it samples.

They are the model's own if the engine's `logprobs_mode` is "raw_logprobs", vLLM's default: vLLM
computes them before temperature, top_p, top_k or penalties change the distribution. A prefill pass
over the response gives the same numbers, except for rounding. Written for vLLM 0.29.0.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from sar.scoring.base import TokenSequence

_RAW = "raw_logprobs"


class SamplingRecorder:
    """OpenRLHF's rollout engine, for one rollout. It also asks for the log-probabilities of the
    sampled tokens, and keeps them."""

    def __init__(self, engine: Any) -> None:
        """
        Args:
            engine: OpenRLHF's `RolloutRayActor`.
        """
        self._engine = engine
        # With another mode, or one that is not known, the numbers may be those of the distribution
        # that was sampled from.
        config = getattr(getattr(engine, "llm", None), "model_config", None)
        self._is_raw = getattr(config, "logprobs_mode", None) == _RAW
        self._prompt_ids: list[int] = []
        self._token_ids: list[int] = []
        self._logprobs_T: npt.NDArray[np.float32] | None = None

    async def generate(
        self, prompt_token_ids: list[int], sampling_params: Any, multi_modal_data: Any = None
    ) -> Any:
        """As `RolloutRayActor.generate`."""
        if self._is_raw and sampling_params.logprobs is None:
            sampling_params = copy.copy(sampling_params)
            sampling_params.logprobs = 0  # of the sampled tokens, and no others
        output = await self._engine.generate(
            prompt_token_ids, sampling_params, multi_modal_data=multi_modal_data
        )
        if self._is_raw:
            sampled = output.outputs[0]
            self._prompt_ids, self._token_ids = prompt_token_ids, list(sampled.token_ids)
            self._logprobs_T = _read(self._token_ids, sampled.logprobs)
        return output

    def logprobs_of(self, sequence: TokenSequence) -> npt.NDArray[np.float32] | None:
        """(T,) log-probabilities of a response, in nats, if it is what was sampled.

        Returns:
            None if they are not known: the sequence has other tokens, the engine reports another
            distribution than the model's, or a token's number is missing.
        """
        num_tokens = len(sequence.response_ids)
        if (
            self._logprobs_T is None
            or sequence.context_ids != self._prompt_ids
            or sequence.response_ids != self._token_ids[:num_tokens]
        ):
            return None
        return self._logprobs_T[:num_tokens]


def _read(token_ids: list[int], entries: Any) -> npt.NDArray[np.float32] | None:
    """
    Args:
        entries: for each token, vLLM's dictionary of log-probabilities by token id.
    Returns:
        None if a token has no finite log-probability.
    """
    if entries is None or len(entries) != len(token_ids):
        return None
    found = [entry.get(token) for token, entry in zip(token_ids, entries, strict=True)]
    if any(one is None for one in found):
        return None
    logprobs_T = np.array([one.logprob for one in found], dtype=np.float32)
    return logprobs_T if np.isfinite(logprobs_T).all() else None
