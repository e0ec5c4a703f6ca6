"""Terms from the likelihoods that the server computes for SAR."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from sar.terms.base import OPTIONS, Sample, Term

_SAR_PAPER = "Han et al., arXiv:2509.05489"


@dataclass(frozen=True, config=OPTIONS)
class SelfAlignedReward(Term):
    """How much likelier the response is after its prompt than after an empty question."""

    formula = "1 - ppl_qa / ppl_a, at least -1"
    bounds = "-1 to 1"
    source = _SAR_PAPER
    is_quick = True

    def score(self, sample: Sample) -> float:
        return sample.likelihood.sar


@dataclass(frozen=True, config=OPTIONS)
class Confidence(Term):
    """Prefers responses that the policy finds likely."""

    formula = "-ppl_qa"
    bounds = "-infinity to -1"
    source = f"{_SAR_PAPER}, a baseline"
    is_quick = True

    def score(self, sample: Sample) -> float:
        return -sample.likelihood.ppl_qa


@dataclass(frozen=True, config=OPTIONS)
class Entropy(Term):
    """As `confidence`, on a logarithmic scale."""

    formula = "-log ppl_qa"
    bounds = "-infinity to 0"
    source = f"{_SAR_PAPER}, a baseline"
    is_quick = True

    def score(self, sample: Sample) -> float:
        return -sample.likelihood.nll_qa
