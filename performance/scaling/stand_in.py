"""Stand-ins for the model in a scorer process: they take time in proportion to tokens, or none.

A scorer loads one if the driver's environment names it in SCALING_SCORER_CLASS. Waiting leaves the
processor to the server, as a GPU does. Log-probabilities come from the token ids alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sar.scoring import TokenSequence

TOKENS_PER_S = 12_000.0
"""Tokens of both sequences of each rollout that a waiting stand-in scores per second."""


class WaitingScorer:
    """Waits for each token as a model would work on it."""

    needs_files = False
    seconds_per_token = 1 / TOKENS_PER_S
    facts: dict[str, Any] = {  # noqa: RUF012  nobody changes it
        "architecture": {},
        "max_context_tokens": 32_768,
        "scoring_path": ("packed", ""),
        "description": "a stand-in that waits",
    }

    @classmethod
    def load(cls, path: str, options: object) -> Self:
        """Loads nothing."""
        return cls()

    def has_room_for(self, num_copies: int) -> bool:
        return True

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        """See `LogprobScorer`."""
        if self.seconds_per_token:
            time.sleep(sum(map(len, sequences)) * self.seconds_per_token)
        return [compute_logprobs(sequence) for sequence in sequences]

    def close(self) -> None:
        """Frees nothing."""


class InstantScorer(WaitingScorer):
    """Does not wait: what is left is the cost of the way to a scorer and back."""

    seconds_per_token = 0.0


def compute_logprobs(sequence: TokenSequence) -> npt.NDArray[np.float32]:
    """Numbers between -1 and 0, the same for the same tokens."""
    return np.array([token % 97 / -97 for token in sequence.response_ids], np.float32)
