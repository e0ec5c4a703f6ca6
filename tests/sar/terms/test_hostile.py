"""Texts that could hang a term or make its value infinite."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import EMPTY_RESPONSE, Likelihood
from sar.terms.base import GroupTerm, Sample, Term
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.group import Efficient, GroupLength, KimiLength, O1Pruner
from sar.terms.length import HardLimit, Overlong, TargetLength
from sar.terms.text import Copied, Repetition
from sar.terms.verdict import Correctness, Format, NoAnswer

MILLION = 1_000_000
TERMS: dict[str, Term | GroupTerm] = {
    "correctness": Correctness(),
    "no_answer": NoAnswer(),
    "think": Format(style="think"),
    "boxed": Format(pattern=r"\\boxed\{[^{}]*\}"),
    "copied": Copied(),
    "copied_1000": Copied(n=1000),
    "repetition": Repetition(),
    "repetition_1": Repetition(n=1),
    "overlong": Overlong(max_tokens=10, buffer_tokens=10),
    "exact": TargetLength(target_tokens=10),
    "max": TargetLength(form="max", target_tokens=10),
    "hard_limit": HardLimit(max_tokens=10),
    "o1_pruner": O1Pruner(),
    "efficient": Efficient(),
    "kimi_length": KimiLength(),
    "group_length": GroupLength(),
}
COMPOSITION = Composition(tuple(WeightedTerm(*term) for term in TERMS.items()), 2, "gdpo")

random_words = random.Random(0)
LONG = {
    "one letter": "a" * MILLION,
    "words": "a " * (MILLION // 2),
    "different words": " ".join(random_words.choices(["ab", "cd", "ef"], k=MILLION // 3)),
    "Chinese": "小明有五个苹果" * (MILLION // 7),
    "marks": "e" + "\u0301\u0323" * (MILLION // 2),
    "surrogates": "\ud800" * MILLION,
    "open tags": "<think>" * (MILLION // 7),
    "boxes": "\\boxed{" * (MILLION // 7),
    "line breaks": "\n" * MILLION,
    "nulls": "\0" * MILLION,
    "ligatures": "ﬃ\u0130" * (MILLION // 2),
}


def check_all_finite(prompt: str, response: str) -> dict[str, float]:
    group = [
        Sample(prompt, text, Label("5", "math"), Verdict(reason), likelihood)
        for text, reason, likelihood in (
            (response, Reason.CORRECT, Likelihood(0.5, 1.0, 10**7, True)),
            ("", Reason.NO_ANSWER, EMPTY_RESPONSE),
        )
    ]
    # A value that is not finite is a TermError.
    scores = COMPOSITION.score_group(group, [COMPOSITION.score(one) for one in group])
    assert all(math.isfinite(reward) for reward in COMPOSITION.combine(group, scores))
    assert all(scored.keys() == TERMS.keys() for scored in scores)
    return scores[0]


@given(st.text(st.characters(), max_size=60), st.text(st.characters(), max_size=60))
def test_any_text_has_a_value(prompt: str, response: str) -> None:
    check_all_finite(prompt, response)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG)
def test_a_million_characters_have_a_value(kind: str) -> None:
    scores = check_all_finite(LONG[kind], LONG[kind])
    assert scores["repetition"] > (0.99 if kind != "different words" else 0.05)
    has_words = kind in ("words", "different words", "Chinese", "open tags", "boxes")
    assert scores["copied"] == (1.0 if has_words else 0.0)
