"""What a scorer is: token sequences in, log-probabilities of their responses out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenSequence:
    """A response after its context, as token ids. Both hold at least one token."""

    context_ids: list[int]
    response_ids: list[int]

    def __post_init__(self) -> None:
        assert self.context_ids, "the first response token needs a context"
        assert self.response_ids, "a response without tokens is not scored"

    def __len__(self) -> int:
        return len(self.context_ids) + len(self.response_ids)


class LogprobScorer(Protocol):
    """A causal language model that says how probable it finds given responses."""

    @property
    def max_context_tokens(self) -> int | None:
        """The longest sequence the model takes; None if it sets no limit."""

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        """Log-probability of every response token, in the order of `sequences`.

        Returns:
            One (T_i,) float32 array per sequence, nats:
            log p(response_t | context, response_<t).
        """
