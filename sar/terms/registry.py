"""The names of the terms in a reward file.

A new term is one class in the file of its family and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sar.terms.base import GroupTerm, Term
from sar.terms.group import Efficient, GroupLength, KimiLength, O1Pruner
from sar.terms.length import HardLimit, Overlong, TargetLength
from sar.terms.likelihood import (
    Confidence,
    Entropy,
    ReferenceLikelihood,
    SelfAlignedReward,
    SelfCertainty,
)
from sar.terms.remote.classify import Classify
from sar.terms.remote.judge import Judge
from sar.terms.text import Copied, Repetition
from sar.terms.verdict import Correctness, Format, NoAnswer

TERMS: Mapping[str, type[Term | GroupTerm]] = MappingProxyType(
    {
        "correctness": Correctness,
        "no_answer": NoAnswer,
        "format": Format,
        "sar": SelfAlignedReward,
        "confidence": Confidence,
        "entropy": Entropy,
        "self_certainty": SelfCertainty,
        "reference_likelihood": ReferenceLikelihood,
        "copied": Copied,
        "repetition": Repetition,
        "overlong": Overlong,
        "target_length": TargetLength,
        "hard_limit": HardLimit,
        "o1_pruner": O1Pruner,
        "efficient": Efficient,
        "kimi_length": KimiLength,
        "group_length": GroupLength,
        "classify": Classify,
        "judge": Judge,
    }
)
