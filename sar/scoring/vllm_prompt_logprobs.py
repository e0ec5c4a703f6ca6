"""Gets log-probabilities of given tokens from vLLM.

The whole sequence is sent to vLLM as a prompt of token ids. vLLM returns the log-probability of
each prompt token under the model's own distribution, whatever the temperature. vLLM always
generates at least one token, which is ignored. It returns no logits, so there is no self-certainty.
Written for vLLM 0.29.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from sar.scoring.base import TokenSequence

SAMPLING_ARGUMENTS = MappingProxyType(
    {
        "prompt_logprobs": 0,  # no alternatives to the prompt's own tokens
        "flat_logprobs": True,
        "max_tokens": 1,
        "temperature": 0.0,
        "detokenize": False,
    }
)
"""For `vllm.SamplingParams`. Give them to its constructor, and don't set them later: it reads
`prompt_logprobs` and turns off cached prefixes, whose tokens would have no log-probability."""

ROOM_TOKENS = 1
"""vLLM refuses a prompt that leaves no room in the context for the token that it generates."""


def refuse_certainty(sequences: Sequence[TokenSequence]) -> None:
    """
    Raises:
        ValueError: a sequence asks for self-certainty, which takes the logits of all words.
    """
    if any(sequence.wants_certainty for sequence in sequences):
        raise ValueError("vLLM returns no logits, so there is no self-certainty")


def read_response_logprobs(flat: Any, sequence: TokenSequence) -> npt.NDArray[np.float32]:
    """(T,) log-probabilities of the response, in nats.

    The token ids in vLLM's answer are compared with those of the sequence, so that a missing,
    misplaced or foreign value is an error.

    Args:
        flat: vLLM's `FlatLogprobs` of the whole sequence: a token id and a log-probability for each
            position except the first, which has none. None if vLLM returned nothing.
    Raises:
        RuntimeError: vLLM did not return a log-probability for every token.
        FloatingPointError: a log-probability is not finite.
    """
    expected_ids = sequence.context_ids[1:] + sequence.response_ids
    token_ids = [] if flat is None else flat.token_ids
    if token_ids != expected_ids or len(flat.logprobs) != len(expected_ids):
        raise RuntimeError(
            f"vLLM returned log-probabilities of {len(token_ids)} tokens that are not the "
            f"{len(expected_ids)} of the sequence"
        )
    logprobs_T = np.array(flat.logprobs[-len(sequence.response_ids) :], dtype=np.float32)
    if not np.isfinite(logprobs_T).all():
        raise FloatingPointError("vLLM returned a log-probability that is not finite")
    return logprobs_T
