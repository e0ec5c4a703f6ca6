"""The reward: `correctness + sar_weight * SAR`.

A wrong answer gets its SAR too, as partial credit.
Source: Han et al., arXiv:2509.05489, the combined reward with alpha = 0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
    self_certainty: float | None = None
    """Mean self-certainty of the response after its prompt, in nats (see `sar.scoring.base`). None:
    no term needed it."""
    reference_gain: float | None = None
    """Mean log-probability of the reference answer after the response's reasoning, minus after the
    prompt alone, in nats (see `sar.reference`). None: no term needed it, or the reference has no
    token."""

    @classmethod
    def from_logprobs(
        cls, encoded: EncodedRollout, logprobs: list[npt.NDArray[np.float32]]
    ) -> Likelihood:
        """
        Args:
            logprobs: for each of `encoded.sequences`, what `LogprobScorer.response_logprobs` gave.
        """
        if not encoded.sequences:
            return replace(
                EMPTY_RESPONSE,
                self_certainty=0.0 if "self_certainty" in encoded.needs else None,
                reference_gain=0.0 if "reference_gain" in encoded.needs else None,
            )
        logprobs_qa_T, logprobs_a_T, *logprobs_of_reference = logprobs
        self_certainty = reference_gain = None
        if "self_certainty" in encoded.needs:
            logprobs_qa_T, certainties_T = logprobs_qa_T
            # Rounding alone makes it negative.
            self_certainty = max(0.0, -mean_nll(certainties_T))
        if logprobs_of_reference:
            with_reasoning, alone = map(mean_nll, logprobs_of_reference)
            reference_gain = alone - with_reasoning
        return cls(
            nll_qa=mean_nll(logprobs_qa_T),
            nll_a=mean_nll(logprobs_a_T),
            num_response_tokens=encoded.num_response_tokens,
            over_context=encoded.over_context,
            self_certainty=self_certainty,
            reference_gain=reference_gain,
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


# An empty response has no improbable token: both perplexities are 1, and SAR is 0. It is certain of
# nothing and gives no reason, so self-certainty and gain are 0 if a term needs them.
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
