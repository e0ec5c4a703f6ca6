"""The terms that compare lengths, against formulas written here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import GroupTerm, Sample
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.group import Efficient, GroupLength, KimiLength, O1Pruner

Group = list[tuple[int, bool]]
groups = st.lists(
    st.tuples(st.integers(0, 300) | st.integers(0, 10**7), st.booleans()), min_size=1, max_size=9
)
TERMS = (O1Pruner(), Efficient(), KimiLength(), GroupLength())


def make_group(group: Group) -> list[Sample]:
    return [
        Sample(
            "2+3?",
            "5",
            Label("5", "math"),
            Verdict(Reason.CORRECT if correct else Reason.WRONG),
            Likelihood(0.5, 1.0, num_tokens, False),
        )
        for num_tokens, correct in group
    ]


def score(term: GroupTerm, group: Group) -> Sequence[float]:
    composition = Composition((WeightedTerm("it", term),), max(len(group), 2))
    scores = composition.score_group(make_group(group), [{}] * len(group))
    return [one["it"] for one in scores]


@given(groups)
def test_o1_pruner(group: Group) -> None:
    group = [(length + 1, correct) for length, correct in group]  # the formula has no empty one
    lengths = np.array([length for length, _ in group], dtype=float)
    expected = -np.clip((lengths - lengths.mean()) / lengths, -1, 1)
    assert score(O1Pruner(), group) == pytest.approx(expected, abs=1e-9)


def test_o1_pruner_on_empty_responses() -> None:
    assert score(O1Pruner(), [(0, False), (0, False)]) == [0.0, 0.0]
    assert score(O1Pruner(), [(0, False), (8, True)]) == [1.0, -0.5]


@given(groups)
def test_efficient(group: Group) -> None:
    right = np.array([length for length, correct in group if correct], dtype=float)
    expected = []
    for length, correct in group:
        if not correct or len(right) < 2:
            expected.append(0.0)
            continue
        z = (length - right.mean()) / (np.sqrt(((right - right.mean()) ** 2).mean()) + 1e-5)
        expected.append(-(2 / (1 + np.exp(-z)) - 1))
    assert score(Efficient(), group) == pytest.approx(expected, abs=1e-6)


@given(groups)
def test_kimi_length(group: Group) -> None:
    lengths = [length for length, _ in group]
    low, high = min(lengths), max(lengths)
    expected = []
    for length, correct in group:
        value = 0.0 if low == high else 0.5 - (length - low) / (high - low)
        expected.append(value if correct else min(0.0, value))
    assert score(KimiLength(), group) == pytest.approx(expected)


@given(groups)
def test_group_length(group: Group) -> None:
    pass_rate = sum(correct for _, correct in group) / len(group)
    longest = max(1, max(length for length, _ in group))
    expected = [-(pass_rate * (length / longest)) for length, _ in group]
    assert score(GroupLength(), group) == pytest.approx(expected)


@given(groups, st.randoms())
def test_the_order_of_a_group_does_not_matter(group: Group, random: object) -> None:
    order = list(range(len(group)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for term in TERMS:
        values = score(term, group)
        shuffled = score(term, [group[index] for index in order])
        assert shuffled == pytest.approx([values[index] for index in order], abs=1e-9)


@given(groups)
def test_values_keep_to_their_bounds(group: Group) -> None:
    for term in TERMS:
        low, high = map(float, term.bounds.split(" to "))
        assert all(low <= value <= high for value in score(term, group))


@given(st.integers(0, 10**7), st.integers(1, 9))
def test_equal_lengths_of_right_answers_are_paid_equally(length: int, size: int) -> None:
    group = [(length, True)] * size
    for term in (O1Pruner(), Efficient(), KimiLength()):
        assert score(term, group) == pytest.approx([0.0] * size, abs=1e-9)
    assert len(set(score(GroupLength(), group))) == 1
