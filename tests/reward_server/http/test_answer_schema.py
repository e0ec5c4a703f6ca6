"""What the server answers: numbers only, and what each of them means."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reward_server.http.answer_schema import GetRewardAnswer, RmAnswer
from reward_server.pipeline.rollout import ScoredRollout
from sar.grading.verdict import Reason, Verdict
from sar.reward import EMPTY_RESPONSE, Likelihood, Reward, combine


def get_reward_answer(scored: Sequence[ScoredRollout]) -> dict[str, Any]:
    """The body that goes over the wire."""
    body: dict[str, Any] = json.loads(GetRewardAnswer.of(scored).model_dump_json())
    return body


def scored(
    reason: Reason,
    likelihood: Likelihood = EMPTY_RESPONSE,
    *,
    unreadable: bool = False,
    mismatch: bool = False,
) -> ScoredRollout:
    verdict = Verdict(reason, label_unreadable=unreadable)
    reward = combine(verdict, likelihood, sar_weight=0.2, mode="train")
    return ScoredRollout(reward, mismatch, policy_version=7, policy_age_s=1.5)


def test_the_response_says_what_a_reward_is_made_of() -> None:
    likelihood = Likelihood(math.log(2), math.log(4), num_response_tokens=9, over_context=True)
    body = get_reward_answer(
        [scored(Reason.CORRECT, likelihood, mismatch=True), scored(Reason.NO_ANSWER)]
    )
    assert body["rewards"] == pytest.approx([1.1, 0.0])
    assert body["scores"] == [1.0, 0.0]
    logs = body["extra_logs"]
    assert logs["correctness"] == [1.0, 0.0]
    assert logs["sar"] == pytest.approx([0.5, 0.0])
    assert logs["ppl_qa"] == pytest.approx([2.0, 1.0])
    assert logs["ppl_a"] == pytest.approx([4.0, 1.0])
    assert logs["response_tokens"] == [9, 0]
    assert logs["over_context"] == [1, 0]
    assert logs["no_answer"] == [0, 1]
    assert logs["template_mismatch"] == [1, 0]


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        (scored(Reason.TIMEOUT), "grader_timeout"),
        (scored(Reason.CRASHED), "grader_crashed"),
        (scored(Reason.NO_ANSWER), "no_answer"),
        (scored(Reason.WRONG, unreadable=True), "label_unreadable"),
    ],
)
def test_what_went_wrong_is_counted_apart(sample: ScoredRollout, name: str) -> None:
    logs = get_reward_answer([sample])["extra_logs"]
    flags = ("grader_timeout", "grader_crashed", "no_answer", "label_unreadable")
    assert {flag: logs[flag] for flag in flags} == {flag: [int(flag == name)] for flag in flags}


def test_nothing_in_nothing_out() -> None:
    body = get_reward_answer([])
    assert body["rewards"] == body["scores"] == []
    assert set(map(len, body["extra_logs"].values())) == {0}


@given(
    st.lists(
        st.builds(
            scored,
            st.sampled_from(Reason),
            st.builds(
                Likelihood,
                st.floats(-1e300, 1e300),
                st.floats(-1e300, 1e300),
                st.integers(0, 10**6),
                st.booleans(),
            ),
            unreadable=st.booleans(),
            mismatch=st.booleans(),
        ),
        max_size=4,
    )
)
def test_only_finite_numbers_are_sent(samples: list[ScoredRollout]) -> None:
    body = get_reward_answer(samples)
    for values in (body["rewards"], body["scores"], *body["extra_logs"].values()):
        assert len(values) == len(samples)
        for value in values:
            assert isinstance(value, (int, float))
            assert not isinstance(value, bool)
            assert math.isfinite(value)
            assert abs(value) < 3.4e38  # a float32 tensor holds it
    assert all(score in (0, 1) for score in body["scores"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_an_error_and_never_sent(value: float) -> None:
    reward = Reward(value, Verdict(Reason.CORRECT), EMPTY_RESPONSE)
    broken = ScoredRollout(reward, template_mismatch=False, policy_version=0, policy_age_s=0.0)
    for answer in (lambda: RmAnswer.of(broken), lambda: GetRewardAnswer.of([broken])):
        with pytest.raises(ValidationError, match="finite"):
            answer()
