"""The reward: `correctness + sar_weight * SAR`.

A wrong answer gets its SAR too, as partial credit.
Source: Han et al., arXiv:2509.05489, the combined reward with alpha = 0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sar.grading.label import Mode
from sar.grading.verdict import Verdict
from sar.perplexity import mean_nll, perplexity, self_aligned_reward
from sar.tokenization import EncodedRollout

DEFAULT_SAR_WEIGHT = 0.2


@dataclass(frozen=True)
class Likelihood:
    """Mean negative log-likelihoods of a response, in nats, over the tokens that fit the context:
    after its prompt (`nll_qa`) and after the empty-question prompt (`nll_a`)."""

    nll_qa: float
    nll_a: float
    num_response_tokens: int
    """All tokens of the response, including those that did not fit."""
    over_context: bool

    @classmethod
    def from_logprobs(
        cls, encoded: EncodedRollout, logprobs: list[npt.NDArray[np.float32]]
    ) -> Likelihood:
        """
        Args:
            logprobs: one (T,) array of log-probabilities for each of `encoded.sequences`.
        """
        if not encoded.sequences:
            return EMPTY_RESPONSE
        logprobs_qa_T, logprobs_a_T = logprobs
        return cls(
            nll_qa=mean_nll(logprobs_qa_T),
            nll_a=mean_nll(logprobs_a_T),
            num_response_tokens=encoded.num_response_tokens,
            over_context=encoded.over_context,
        )

    @property
    def ppl_qa(self) -> float:
        return perplexity(self.nll_qa)

    @property
    def ppl_a(self) -> float:
        return perplexity(self.nll_a)

    @property
    def sar(self) -> float:
        return self_aligned_reward(self.nll_qa, self.nll_a)


# An empty response has no improbable token: both perplexities are 1, and SAR is 0.
EMPTY_RESPONSE = Likelihood(nll_qa=0.0, nll_a=0.0, num_response_tokens=0, over_context=False)


@dataclass(frozen=True)
class Reward:
    """The reward of one rollout, and what it was computed from."""

    value: float
    verdict: Verdict
    likelihood: Likelihood
    terms: Mapping[str, float] = field(default_factory=dict)
    """Values of the reward file's terms, by name, before weights and conditions. Empty without a
    reward file."""

    @property
    def correctness(self) -> float:
        return self.verdict.correctness


def combine(verdict: Verdict, likelihood: Likelihood, *, sar_weight: float, mode: Mode) -> Reward:
    """The reward of one rollout. In mode "eval", it is the correctness alone."""
    sar = likelihood.sar if mode == "train" else 0.0
    return Reward(verdict.correctness + sar_weight * sar, verdict, likelihood)
