"""The terms from the length against formulas written here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood
from sar.terms.base import Sample, TermError
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.length import HardLimit, Overlong, TargetLength


def make_sample(num_tokens: int, *, correct: bool = True, target: int | None = None) -> Sample:
    verdict = Verdict(Reason.CORRECT if correct else Reason.WRONG)
    label = Label("5", "math", target_tokens=target)
    return Sample("2+3?", "5", label, verdict, Likelihood(0.5, 1.0, num_tokens, False))


tokens = st.integers(0, 20_000)


@given(st.integers(1, 10_000), st.data())
def test_overlong_is_dapos_three_pieces(buffer: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(buffer, 20_000))
    near = st.sampled_from([limit - buffer, limit - buffer + 1, limit, limit + 1])
    length = data.draw(tokens | near)
    if length <= limit - buffer:
        expected = 0.0
    elif length <= limit:
        expected = ((limit - buffer) - length) / buffer
    else:
        expected = -1.0
    term = Overlong(max_tokens=limit, buffer_tokens=buffer)
    assert term.score(make_sample(length)) == pytest.approx(expected)


@given(tokens, st.integers(1, 20_000), st.floats(1e-6, 1), st.booleans())
def test_exact_takes_away_for_each_token_off_the_target(
    length: int, target: int, alpha: float, correct: bool
) -> None:
    term = TargetLength(form="exact", target_tokens=target, alpha=alpha)
    expected = -alpha * max(length - target, target - length)
    assert term.score(make_sample(length, correct=correct)) == pytest.approx(expected)


@given(tokens, st.integers(1, 20_000), st.floats(1e-6, 1), st.floats(0, 1), st.booleans())
def test_max_pays_right_answers_below_the_target(
    length: int, target: int, alpha: float, delta: float, correct: bool
) -> None:
    term = TargetLength(form="max", target_tokens=target, alpha=alpha, delta=delta)
    expected = float(correct) * np.clip(alpha * (target - length) + delta, 0, 1)
    assert term.score(make_sample(length, correct=correct)) == pytest.approx(expected)


def test_the_labels_target_comes_before_the_options() -> None:
    term = TargetLength(target_tokens=100, alpha=0.01)
    assert term.score(make_sample(90)) == pytest.approx(-0.1)
    assert term.score(make_sample(90, target=70)) == pytest.approx(-0.2)


def test_a_target_that_is_nowhere_is_an_error() -> None:
    composition = Composition((WeightedTerm("mine", TargetLength()),))
    message = 'each label needs "target_tokens", or set it in the reward file for all'
    with pytest.raises(TermError, match=f"^term 'mine' failed: ValueError: {message}$"):
        composition.score(make_sample(90))
    label = make_sample(90).label
    with pytest.raises(ValueError, match=f"^term 'mine': {message}$"):
        composition.check_label(label)
    composition.check_label(replace(label, mode="eval"))
    composition.check_label(replace(label, target_tokens=70))
    Composition((WeightedTerm("mine", TargetLength(target_tokens=100)),)).check_label(label)


@given(tokens, st.integers(1, 20_000), st.booleans())
def test_hard_limit_pays_right_answers_within_it(length: int, limit: int, correct: bool) -> None:
    expected = 1.0 if correct and not length > limit else 0.0
    assert HardLimit(max_tokens=limit).score(make_sample(length, correct=correct)) == expected


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Overlong, {}, "buffer_tokens"),
        (Overlong, {"max_tokens": 5, "buffer_tokens": 6}, "at most max_tokens, 5"),
        (Overlong, {"max_tokens": 0, "buffer_tokens": 1}, "greater than or equal to 1"),
        (Overlong, {"max_tokens": 5, "buffer_tokens": 0}, "greater than or equal to 1"),
        (Overlong, {"max_tokens": 5.5, "buffer_tokens": 1}, "valid integer"),
        (TargetLength, {"target_tokens": 0}, "greater than or equal to 1"),
        (TargetLength, {"alpha": float("nan")}, "alpha"),
        (TargetLength, {"alpha": 0.0}, "greater than 0"),
        (TargetLength, {"form": "both"}, "'exact' or 'max'"),
        (HardLimit, {"max_tokens": True}, "valid integer"),
    ],
)
def test_wrong_options_are_refused(kind: Any, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**options)
