"""The interface of a scorer: token sequences in, log-probabilities of their responses out.

Self-certainty of a response's token: KL(U || p) of the model's distribution p before that token
from the uniform distribution U over the V rows of its output head, in nats. It is
`logsumexp - mean logit - log V`, of the logits that the log-probability comes from, after the
model's own scaling and soft-capping. Rows that pad the vocabulary count, because p is over them
too. Source: Zhao et al., arXiv:2505.19590. Their code leaves out `log V`, a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenSequence:
    """A response and the context before it, as token ids.

    Raises:
        ValueError: the context or the response has no token.
    """

    context_ids: list[int]
    response_ids: list[int]
    wants_certainty: bool = False
    """Also compute the self-certainty of each response token."""
    continues: TokenSequence | None = None
    """A sequence of the same batch whose tokens this one's context starts with. A scorer may
    compute these tokens once for both. It changes no result."""

    def __post_init__(self) -> None:
        if not self.context_ids:
            raise ValueError("a context without tokens: the response needs one before it")
        if not self.response_ids:
            raise ValueError("a response without tokens cannot be scored")

    def __len__(self) -> int:
        return len(self.context_ids) + len(self.response_ids)


class ScoringPath(NamedTuple):
    """Which way of scoring runs."""

    name: Literal["varlen", "packed", "unpacked", "vllm"]
    """varlen: packs, with one attention kernel on a GPU. packed: packs, attention in blocks.
    unpacked: one sequence at a time, which is slow. vllm: vLLM's own way."""
    reason: str = ""
    """Why no faster way runs; empty if there is none."""


class LogprobScorer(Protocol):
    """A causal language model that computes log-probabilities of given responses."""

    @property
    def max_context_tokens(self) -> int | None:
        """Maximum length of a sequence, context and response together; None: no limit."""

    def response_logprobs(
        self, sequences: Sequence[TokenSequence]
    ) -> list[npt.NDArray[np.float32]]:
        """Log-probability of every response token.

        Returns:
            One (T_i,) float32 array per sequence, in the order of `sequences`, in nats:
            log p(response_t | context, response_<t). For a sequence that `wants_certainty`, a
            (2, T_i) array: the log-probabilities, then the self-certainties.
        Raises:
            ValueError: a sequence `wants_certainty`, and this scorer cannot compute it.
        """
