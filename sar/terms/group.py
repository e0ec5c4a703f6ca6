"""Terms that compare a response's length with those of the same prompt's other responses.

L is the length in tokens, end-of-sequence token included. None of them has an option.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev

from pydantic.dataclasses import dataclass

from sar.terms.base import OPTIONS, GroupTerm, Sample

_SAR_PAPER = "Han et al., arXiv:2509.05489, a baseline, as in the authors' code"
_EPSILON = 1e-5  # the authors'


@dataclass(frozen=True, config=OPTIONS)
class O1Pruner(GroupTerm):
    """Pays what is shorter than its group's mean, right or wrong, and takes away from what is
    longer. An empty response counts as one token in the denominator."""

    formula = "-(L - mean L) / L, clipped to [-1, 1]"
    bounds = "-1 to 1"
    source = f"{_SAR_PAPER} (after O1-Pruner, arXiv:2501.12570, which compares with a reference)"

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        mean = fmean(one.num_tokens for one in group)
        shorter_by = ((mean - one.num_tokens) / max(one.num_tokens, 1) for one in group)
        return [min(max(share, -1.0), 1.0) for share in shorter_by]


@dataclass(frozen=True, config=OPTIONS)
class Efficient(GroupTerm):
    """Pays a right answer that is shorter than the group's other right ones, and takes away from
    one that is longer. Wrong answers get 0, and so does the only right one."""

    formula = "1 - 2 sigmoid((L - mean L) / (std L + 1e-5)) over right answers, 0 if wrong"
    bounds = "-1 to 1"
    source = f"{_SAR_PAPER} (after Arora & Zanette, arXiv:2502.04463); population deviation"

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        lengths = [one.num_tokens for one in group if one.is_correct]
        if len(lengths) < 2:
            return [0.0] * len(group)
        mean, scale = fmean(lengths), pstdev(lengths) + _EPSILON
        # 1 - 2 sigmoid(z) is -tanh(z / 2), which cannot overflow.
        return [
            -math.tanh((one.num_tokens - mean) / scale / 2) if one.is_correct else 0.0
            for one in group
        ]


@dataclass(frozen=True, config=OPTIONS)
class KimiLength(GroupTerm):
    """Pays short right answers, and takes away from long ones, right or wrong. A wrong answer is
    never paid."""

    formula = "0.5 - (L - min L) / (max L - min L); if wrong, at most 0; 0 if all lengths are equal"
    bounds = "-0.5 to 0.5"
    source = "Kimi k1.5, arXiv:2501.12599, length penalty"

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        lengths = [one.num_tokens for one in group]
        shortest, spread = min(lengths), max(lengths) - min(lengths)
        if not spread:
            return [0.0] * len(group)
        values = (0.5 - (length - shortest) / spread for length in lengths)
        return [
            value if one.is_correct else min(value, 0.0)
            for one, value in zip(group, values, strict=True)
        ]


@dataclass(frozen=True, config=OPTIONS)
class GroupLength(GroupTerm):
    """Takes away by length, the more of the group's answers are right: prompts that the policy
    masters ask for shorter answers, and those that it never solves ask for nothing."""

    formula = "-mean correctness x L / max L"
    bounds = "-1 to 0"
    source = "prime-rl, linear length penalty, output tokens only (there, the weight is 0.25)"

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        share_right = fmean(one.is_correct for one in group)
        longest = max(*(one.num_tokens for one in group), 1)
        return [-share_right * one.num_tokens / longest for one in group]
