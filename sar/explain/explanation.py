"""What a reward was computed from, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sar.explain.spans import locate_tokens
from sar.grading.verdict import Verdict
from sar.reward import Likelihood
from sar.tokenization import EncodedRollout, RolloutTokenizer


class ExplainedToken(NamedTuple):
    """One token of a response. Its text is that of its characters.

    The tokens of a character that is split over several share its characters.
    """

    text: str
    start: int
    end: int
    """Characters (code points) [start, end) of the response."""
    nll_qa: float
    """Negative log-likelihood after the prompt, in nats."""
    nll_a: float
    """Negative log-likelihood after the empty-question prompt, in nats."""

    @property
    def gain(self) -> float:
        """What the question explains of this token, in nats. Negative: the token is less likely
        with the question than without it."""
        return self.nll_a - self.nll_qa


@dataclass(frozen=True)
class Explanation:
    """One rollout's reward and its tokens."""

    prompt: str
    response: str
    tokens: Sequence[ExplainedToken]
    """Those that fit the context. The means of their `nll_qa` and `nll_a` are the likelihood's."""
    likelihood: Likelihood
    verdict: Verdict | None
    """None: there is no label to grade against."""
    reward: float | None
    """None: there is no verdict, or the reward compares rollouts that are not there."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Values of the reward file's terms. Empty without a reward file."""

    def to_fields(self) -> dict[str, Any]:
        """The JSON object of `POST /explain`, without its tokens."""
        return {
            "prompt": self.prompt,
            "response": self.response,
            "reward": self.reward,
            "correctness": self.verdict.correctness if self.verdict else None,
            "reason": self.verdict.reason.value if self.verdict else None,
            "answer": self.verdict.answer if self.verdict else None,
            "sar": self.likelihood.sar,
            "ppl_qa": self.likelihood.ppl_qa,
            "ppl_a": self.likelihood.ppl_a,
            "terms": dict(self.terms),
        }


def explain_tokens(
    tokenizer: RolloutTokenizer,
    response: str,
    encoded: EncodedRollout,
    logprobs: Sequence[npt.NDArray[np.float32]],
) -> list[ExplainedToken]:
    """The tokens of a response with their log-likelihoods.

    Args:
        encoded: the rollout, from `RolloutTokenizer.encode`.
        logprobs: for each of `encoded.sequences`, what `LogprobScorer.response_logprobs` gave.
    """
    if not encoded.sequences:
        return []
    response_ids = encoded.sequences[0].response_ids
    spans = locate_tokens(
        tokenizer, response, response_ids, is_cut=len(response_ids) < encoded.num_response_tokens
    )
    nlls_qa, nlls_a = (list(_negate(scores)) for scores in logprobs[:2])
    return [
        ExplainedToken(response[span.start : span.end], *span, nll_qa, nll_a)
        for span, nll_qa, nll_a in zip(spans, nlls_qa, nlls_a, strict=True)
    ]


def _negate(scores: npt.NDArray[np.float32]) -> Iterator[float]:
    """The negative log-likelihoods. Self-certainties, where a term needs them, are left out."""
    logprobs_T = scores[0] if scores.ndim > 1 else scores
    # 0 minus, not a minus sign alone: a certain token gives 0.0, not -0.0.
    return (0.0 - logprob for logprob in logprobs_T.tolist())
