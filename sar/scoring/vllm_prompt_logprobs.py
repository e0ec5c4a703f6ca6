"""How vLLM is asked how probable it finds given tokens, and how its answer is read.

A sequence is given to vLLM as a prompt of token ids, and the log-probabilities of the prompt's own
tokens are read: those of the model's distribution, whatever the temperature. vLLM cannot be told to
generate nothing: it adds one token, which is ignored. Written against vLLM 0.29.0.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from sar.scoring.base import TokenSequence

SAMPLING_ARGUMENTS = MappingProxyType(
    {
        "prompt_logprobs": 0,  # the prompt's own token and no other
        "flat_logprobs": True,
        "max_tokens": 1,
        "temperature": 0.0,
        "detokenize": False,
    }
)
"""For `vllm.SamplingParams`. Its constructor wants them together: from `prompt_logprobs` it also
concludes that cached prefixes, whose tokens have no log-probability, must not be used."""

ROOM_TOKENS = 1
"""vLLM refuses a prompt that leaves no room for the token it generates."""


def read_response_logprobs(flat: Any, sequence: TokenSequence) -> npt.NDArray[np.float32]:
    """(T,) log-probabilities of the response from vLLM's `FlatLogprobs` of the whole sequence.

    It lists a token id and a log-probability for each position but the first, which has none.
    Comparing the ids shows that nothing is missing, misplaced or of another sequence.

    Raises:
        RuntimeError: vLLM did not answer for every token.
        FloatingPointError: a log-probability is not finite.
    """
    expected_ids = sequence.context_ids[1:] + sequence.response_ids
    token_ids = [] if flat is None else flat.token_ids
    if token_ids != expected_ids or len(flat.logprobs) != len(expected_ids):
        raise RuntimeError(
            f"vLLM gave log-probabilities of {len(token_ids)} tokens that are not the "
            f"{len(expected_ids)} of the sequence"
        )
    logprobs_T = np.array(flat.logprobs[-len(sequence.response_ids) :], dtype=np.float32)
    if not np.isfinite(logprobs_T).all():
        raise FloatingPointError("vLLM gave a log-probability that is not finite")
    return logprobs_T
