"""Computes perplexity and Self-Aligned Reward (SAR) from log-probabilities, in log space.

Shapes: T response tokens. Log-probabilities are natural logs (nats).

The perplexity of an improbable response overflows a float. SAR only needs the difference of two
mean negative log-likelihoods (NLLs): `(ppl_a - ppl_qa) / ppl_a = 1 - exp(nll_qa - nll_a)`.
Source: Han et al., arXiv:2509.05489, definitions of ppl(a|q), ppl(a) and R_SA.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

# exp of this is 1e30, which is finite in the float32 tensors that trainers put it into.
MAX_REPORTED_NLL = 30 * math.log(10)


def mean_nll(logprobs_T: npt.NDArray[np.float32]) -> float:
    """Mean negative log-likelihood per token of one response, in nats.

    Args:
        logprobs_T: (T,) log p(token_t | context, tokens_<t), T >= 1.
    Raises:
        ValueError: there is no token.
        FloatingPointError: a log-probability is not finite. The model is broken, and a reward
            computed from it would be meaningless.
    """
    if logprobs_T.size == 0:
        raise ValueError("a response without tokens has no NLL")
    # 0 minus, not a minus sign alone: certain tokens give 0.0, not -0.0.
    nll = 0.0 - float(np.mean(logprobs_T, dtype=np.float64))
    if not math.isfinite(nll):
        raise FloatingPointError(f"the model gave a log-probability that is not finite ({-nll})")
    return nll


def perplexity(nll: float) -> float:
    """exp of a mean NLL, capped at 1e30. For reporting only: SAR is computed without it."""
    return math.exp(min(nll, MAX_REPORTED_NLL))


def self_aligned_reward(nll_qa: float, nll_a: float) -> float:
    """SAR: `1 - ppl_qa / ppl_a`, clipped to [-1, 1].

    Args:
        nll_qa: mean NLL of the response after its prompt, nats.
        nll_a: mean NLL of the response after the empty-question prompt, nats.
    """
    # SAR is -1 for any difference above ln 2. The inner limit keeps expm1 from overflowing.
    return max(-1.0, 0.0 - math.expm1(min(nll_qa - nll_a, 1.0)))
