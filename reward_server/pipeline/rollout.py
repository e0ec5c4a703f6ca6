"""A rollout on its way through the server: as a trainer sent it, and with its reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sar.grading.label import Label
from sar.reward import Reward


@dataclass(frozen=True)
class SubmittedRollout:
    """One rollout as a trainer sent it."""

    query: str
    """Prompt and response in one text, special tokens included."""
    prompt: str
    label: Label
    label_as_sent: str | dict[str, Any]


@dataclass(frozen=True)
class ScoredRollout:
    """One rollout's reward, and with which weights it was scored."""

    reward: Reward
    template_mismatch: bool
    """True if the prompt's template or system prompt is not that of the empty-question prompt."""
    policy_version: int
    policy_age_s: float
    """Seconds since the weights that scored it were loaded."""
    cohort_incomplete: bool = False
    """True if the reward compares siblings, and some were missing at the deadline."""
