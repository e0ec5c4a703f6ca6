"""The names of the terms in a reward file.

A new term is one class in the file of its family and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sar.terms.base import GroupTerm, Term
from sar.terms.likelihood import Confidence, Entropy, SelfAlignedReward
from sar.terms.remote.classify import Classify
from sar.terms.remote.judge import Judge
from sar.terms.verdict import Correctness, NoAnswer

TERMS: Mapping[str, type[Term | GroupTerm]] = MappingProxyType(
    {
        "correctness": Correctness,
        "no_answer": NoAnswer,
        "sar": SelfAlignedReward,
        "confidence": Confidence,
        "entropy": Entropy,
        "classify": Classify,
        "judge": Judge,
    }
)
