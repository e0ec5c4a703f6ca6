"""SAR and perplexity against their definitions in the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.perplexity import mean_nll, perplexity, self_aligned_reward

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.floats(-300, 300), st.floats(-300, 300))
def test_sar_is_the_papers_definition_where_that_does_not_overflow(
    nll_qa: float, nll_a: float
) -> None:
    ppl_qa, ppl_a = math.exp(nll_qa), math.exp(nll_a)
    expected = min(1.0, max(-1.0, (ppl_a - ppl_qa) / ppl_a))
    assert self_aligned_reward(nll_qa, nll_a) == pytest.approx(expected, abs=1e-12)


@given(finite, finite)
def test_sar_stays_in_its_range_for_any_finite_input(nll_qa: float, nll_a: float) -> None:
    assert -1.0 <= self_aligned_reward(nll_qa, nll_a) <= 1.0


@given(st.floats(0, 1e6), st.floats(1e-3, 1e3))
def test_sar_is_positive_exactly_when_the_question_helps(nll: float, gain: float) -> None:
    assert self_aligned_reward(nll, nll + gain) > 0
    assert self_aligned_reward(nll + gain, nll) < 0
    assert self_aligned_reward(nll, nll) == 0


@pytest.mark.parametrize(
    ("nll_qa", "nll_a", "expected"),
    [
        (0.0, math.log(2), 0.5),
        (math.log(3), math.log(4), 0.25),
        (math.log(2), 0.0, -1.0),
        (math.log(1.5), 0.0, -0.5),
        (5000.0, 0.0, -1.0),
        (0.0, 5000.0, 1.0),
        (5000.0, 5000.0 + math.log(2), 0.5),
    ],
)
def test_sar_of_known_values(nll_qa: float, nll_a: float, expected: float) -> None:
    assert self_aligned_reward(nll_qa, nll_a) == pytest.approx(expected, abs=1e-9)


def test_sar_keeps_its_precision_for_small_differences() -> None:
    assert self_aligned_reward(2.0, 2.0 + 1e-10) == pytest.approx(1e-10, rel=1e-4)


@given(finite)
def test_reported_perplexity_is_finite_in_float32(nll: float) -> None:
    reported = perplexity(nll)
    assert reported >= 0
    assert np.isfinite(np.float32(reported))


@given(st.floats(0, 60))
def test_perplexity_is_exp_of_the_nll(nll: float) -> None:
    assert perplexity(nll) == pytest.approx(math.exp(nll), rel=1e-12)


@given(st.lists(st.floats(-100, 0, width=32), min_size=1, max_size=50))
def test_mean_nll_is_the_negative_mean(logprobs: list[float]) -> None:
    expected = -math.fsum(logprobs) / len(logprobs)
    assert mean_nll(np.array(logprobs, np.float32)) == pytest.approx(expected, abs=1e-9)


def test_mean_nll_does_not_lose_digits_in_long_responses() -> None:
    # Summed in float32, a million such values are off in the third digit.
    logprobs = np.full(1_000_001, -0.1, np.float32)
    assert mean_nll(logprobs) == pytest.approx(float(np.float32(0.1)), rel=1e-7)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_log_probability_that_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        mean_nll(np.array([-1.0, bad, -2.0], np.float32))


def test_a_response_without_tokens_is_an_error() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        mean_nll(np.empty(0, np.float32))


@pytest.mark.parametrize("nll", [0.0, -0.0, 1.5])
def test_zero_has_no_sign(nll: float) -> None:
    assert str(self_aligned_reward(nll, nll)) == "0.0"
    assert str(mean_nll(np.zeros(3, np.float32))) == "0.0"
