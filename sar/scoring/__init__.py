"""Log-probabilities of responses under a causal language model."""

from sar.scoring.base import LogprobScorer, TokenSequence

__all__ = ["LogprobScorer", "TokenSequence"]
