"""The reward: correctness plus weighted SAR."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.grading.label import Mode
from sar.grading.verdict import Reason, Verdict
from sar.reward import DEFAULT_SAR_WEIGHT, EMPTY_RESPONSE, Likelihood, combine

HALF = Likelihood(nll_qa=0.0, nll_a=math.log(2), num_response_tokens=7, over_context=False)


def test_the_default_weight_is_the_papers() -> None:
    assert DEFAULT_SAR_WEIGHT == 0.2


@pytest.mark.parametrize(
    ("reason", "mode", "expected"),
    [
        (Reason.CORRECT, "train", 1.1),
        (Reason.WRONG, "train", 0.1),
        (Reason.NO_ANSWER, "train", 0.1),
        (Reason.TIMEOUT, "train", 0.1),
        (Reason.CRASHED, "train", 0.1),
        (Reason.CORRECT, "eval", 1.0),
        (Reason.WRONG, "eval", 0.0),
    ],
)
def test_reward_is_correctness_plus_weighted_sar(
    reason: Reason, mode: Mode, expected: float
) -> None:
    reward = combine(Verdict(reason), HALF, sar_weight=0.2, mode=mode)
    assert reward.value == pytest.approx(expected, abs=1e-12)
    assert reward.correctness == (reason is Reason.CORRECT)
    assert reward.likelihood.sar == pytest.approx(0.5)


def test_an_empty_response_has_perplexities_of_one_and_no_sar() -> None:
    assert (EMPTY_RESPONSE.sar, EMPTY_RESPONSE.ppl_qa, EMPTY_RESPONSE.ppl_a) == (0.0, 1.0, 1.0)
    reward = combine(Verdict(Reason.NO_ANSWER), EMPTY_RESPONSE, sar_weight=0.2, mode="train")
    assert reward.value == 0.0


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300), st.floats(-100, 100))
def test_rewards_are_bounded_by_the_weight(nll_qa: float, nll_a: float, weight: float) -> None:
    likelihood = Likelihood(nll_qa, nll_a, num_response_tokens=1, over_context=False)
    reward = combine(Verdict(Reason.CORRECT), likelihood, sar_weight=weight, mode="train")
    assert 1 - abs(weight) <= reward.value <= 1 + abs(weight)
