"""What the alarms read of one rollout, as numbers."""

from __future__ import annotations

import math

from sar.decision import Decision
from sar.grading.verdict import Reason

REWARD = "reward"
CORRECTNESS = "correctness"
SAR = "SAR"
LENGTH = "length"
NO_ANSWER = "no_answer"
REPETITION = "repetition"
UNREADABLE_LABEL = "unreadable_label"
GRADER_BOMB = "grader_bomb"
TEMPLATE_MISMATCH = "template_mismatch"
TERM_PREFIX = "term "
"""Before the name of a reward file's term, which may be any text."""

_MAX_TERMS = 64
_NGRAM_CHARS = 40
# A response that loops does so at its end.
_MAX_REPETITION_CHARS = 1000
# Squares of larger numbers, summed over a window, would lose all digits of the others.
_MAX_VALUE = 1e12


def measure(decision: Decision) -> dict[str, float]:
    """The numbers of one rollout. All are finite. The cost does not grow with the response beyond
    a thousand characters."""
    reason = decision.reason
    values = {
        REWARD: decision.reward,
        CORRECTNESS: decision.correctness,
        LENGTH: float(decision.num_response_tokens),
        NO_ANSWER: float(reason is Reason.NO_ANSWER),
        REPETITION: measure_repetition(decision.response),
        UNREADABLE_LABEL: float(decision.label_unreadable),
        GRADER_BOMB: float(reason in (Reason.TIMEOUT, Reason.CRASHED)),
        TEMPLATE_MISMATCH: float(decision.template_mismatch),
    }
    if not decision.terms:  # else SAR is a part of the reward only if a term says so
        values[SAR] = decision.sar
    for name in list(decision.terms)[:_MAX_TERMS]:
        values[TERM_PREFIX + name] = decision.terms[name]
    return {name: _bound(value) for name, value in values.items()}


def measure_repetition(text: str) -> float:
    """Share of the 40-character spans at a text's end that occur before in it: 0 to 1."""
    end = text[-_MAX_REPETITION_CHARS:]
    num_spans = len(end) - _NGRAM_CHARS + 1
    if num_spans < 1:
        return 0.0
    return 1.0 - len({end[i : i + _NGRAM_CHARS] for i in range(num_spans)}) / num_spans


def is_part(name: str) -> bool:
    """True for what a reward is made of: terms, SAR, and the reward as a whole."""
    return name in (SAR, REWARD) or name.startswith(TERM_PREFIX)


def _bound(value: float) -> float:
    if math.isnan(value):
        return 0.0
    return min(max(value, -_MAX_VALUE), _MAX_VALUE)
