"""Terms from the policy's likelihoods: three need what SAR needs anyway, and two cost more.

`self_certainty` reads the logits that the log-probabilities come from. It takes no second pass, but
vLLM does not return logits. `reference_likelihood` takes two more sequences: the reference answer
after the response's reasoning, and after the prompt alone.
"""

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


@dataclass(frozen=True, config=OPTIONS)
class SelfCertainty(Term):
    """How far the policy's next-token distributions are from uniform, on average."""

    formula = "mean over the response's tokens of logsumexp(z) - mean(z) - log V, z: the V logits"
    bounds = "0 to infinity"
    source = "Zhao et al., arXiv:2505.19590 (Intuitor)"
    is_quick = True
    needs = frozenset({"self_certainty"})

    def score(self, sample: Sample) -> float:
        return _get(sample.likelihood.self_certainty, "self-certainty")


@dataclass(frozen=True, config=OPTIONS)
class ReferenceLikelihood(Term):
    """How much likelier the response's reasoning makes the label's answer."""

    formula = "mean log p(label's answer | prompt, reasoning) - mean log p(label's answer | prompt)"
    bounds = "-infinity to infinity"
    source = "Kwiatkowski et al., arXiv:2602.03979; the difference as in RLPR, arXiv:2506.18254"
    is_quick = True
    needs = frozenset({"reference_gain"})

    def score(self, sample: Sample) -> float:
        return _get(sample.likelihood.reference_gain, "likelihood of the reference answer")


def _get(value: float | None, name: str) -> float:
    if value is None:
        raise ValueError(f"the rollout has no {name}: it was not computed when it was scored")
    return value
