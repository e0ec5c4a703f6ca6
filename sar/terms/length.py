"""Terms from the length of the response, in tokens, end-of-sequence token included."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from sar.grading.label import Label
from sar.terms.base import OPTIONS, Sample, Term

_Tokens = Annotated[int, Field(ge=1, le=10**9)]


@dataclass(frozen=True, config=OPTIONS)
class Overlong(Term):
    """Takes away from a response that comes close to the length limit, and most beyond it."""

    formula = "(max_tokens - buffer_tokens - L) / buffer_tokens, clipped to [-1, 0]"
    bounds = "-1 to 0"
    source = "DAPO, arXiv:2503.14476, soft overlong punishment"
    is_quick = True

    max_tokens: _Tokens
    """From this length on, the term is -1."""
    buffer_tokens: _Tokens
    """Over so many tokens before, it falls from 0 to -1."""

    @field_validator("buffer_tokens")
    @classmethod
    def _check_buffer(cls, buffer_tokens: int, info: ValidationInfo) -> int:
        if buffer_tokens > info.data.get("max_tokens", buffer_tokens):
            raise ValueError(f"at most max_tokens, {info.data['max_tokens']}")
        return buffer_tokens

    def score(self, sample: Sample) -> float:
        start = self.max_tokens - self.buffer_tokens
        return min(max((start - sample.num_tokens) / self.buffer_tokens, -1.0), 0.0)


@dataclass(frozen=True, config=OPTIONS)
class TargetLength(Term):
    """Pays for keeping to a length that the prompt asks for: L1.

    form = "exact" takes away for each token too many or too few: L1-Exact is correctness + this.
    form = "max" pays right answers only, and more the further they stay below the target: L1-Max is
    this instead of correctness. The target is the label's `target_tokens`, else the option.
    """

    formula = (
        "exact: -alpha |target_tokens - L|; "
        "max: alpha (target_tokens - L) + delta, clipped to [0, 1], 0 if wrong"
    )
    bounds = "exact: -infinity to 0; max: 0 to 1"
    source = "L1, arXiv:2503.04697, LCPO-Exact and LCPO-Max"
    is_quick = True

    form: Literal["exact", "max"] = "exact"
    """Which of L1's two rewards."""
    target_tokens: _Tokens | None = None
    """The target of prompts whose label has no `target_tokens`."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.0003
    """Reward of one token."""
    delta: Annotated[float, Field(ge=0, le=1)] = 0.5
    """With "max": what a right answer of exactly the target length gets."""

    def check_label(self, label: Label) -> None:
        self._find_target(label)

    def score(self, sample: Sample) -> float:
        target = self._find_target(sample.label)
        spare_tokens = target - sample.num_tokens
        if self.form == "exact":
            return -self.alpha * abs(spare_tokens)
        if not sample.is_correct:
            return 0.0
        return min(max(self.alpha * spare_tokens + self.delta, 0.0), 1.0)

    def _find_target(self, label: Label) -> int:
        if target := label.target_tokens or self.target_tokens:
            return target
        raise ValueError('each label needs "target_tokens", or set it in the reward file for all')


@dataclass(frozen=True, config=OPTIONS)
class HardLimit(Term):
    """Pays right answers within a limit only: ThinkPrune. It takes the place of correctness.

    ThinkPrune lowers the limit in stages: start the server with another file for each.
    """

    formula = "1 if the answer is right and L <= max_tokens, else 0"
    bounds = "0 or 1"
    source = "ThinkPrune, arXiv:2504.01296"
    is_quick = True

    max_tokens: _Tokens
    """The longest response that is paid."""

    def score(self, sample: Sample) -> float:
        return float(sample.is_correct and sample.num_tokens <= self.max_tokens)
