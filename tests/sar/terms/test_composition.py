"""The composition of terms: weights, conditions, groups and GDPO, against formulas written here."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.grading.label import Label
from sar.grading.verdict import Reason, Verdict
from sar.reward import Likelihood, combine
from sar.terms.base import GroupTerm, Sample, Term, TermError
from sar.terms.composition import Composition, WeightedTerm
from sar.terms.reward_file import default_composition


class Given(Term):
    """The number in the sample's response."""

    def score(self, sample: Sample) -> float:
        return float(sample.response)


class Halves(GroupTerm):
    """Half of the number in each response, more of it in larger groups."""

    def score_group(self, group: Sequence[Sample]) -> list[float]:
        return [float(one.response) / 2 + len(group) for one in group]


nlls = st.floats(0, 1e4) | st.sampled_from([0.0, 1e-300, 1e300])


def make_sample(number: float = 0.0, *, correct: bool = True) -> Sample:
    verdict = Verdict(Reason.CORRECT if correct else Reason.WRONG)
    return Sample("2+3?", repr(number), Label("5", "math"), verdict, Likelihood(0.5, 1.0, 7, False))


def reward(composition: Composition, group: Sequence[Sample]) -> list[float]:
    scores = [composition.score(one) for one in group]
    return composition.combine(group, composition.score_group(group, scores))


@given(nlls, nlls, st.floats(-100, 100), st.sampled_from(Reason))
def test_the_default_is_the_reward_without_a_file_to_the_bit(
    nll_qa: float, nll_a: float, weight: float, reason: Reason
) -> None:
    likelihood = Likelihood(nll_qa, nll_a, 7, False)
    sample = Sample("2+3?", "5", Label("5", "math"), Verdict(reason), likelihood)
    composition = default_composition(weight)
    scores = {"correctness": float(reason is Reason.CORRECT), "sar": likelihood.sar}
    assert composition.score(sample) == scores
    expected = combine(sample.verdict, likelihood, sar_weight=weight, mode="train").value
    assert [one.hex() for one in reward(composition, [sample] * 2)] == [expected.hex()] * 2


numbers = st.floats(-1e3, 1e3)
groups = st.lists(st.tuples(numbers, st.booleans()), min_size=2, max_size=8)


@given(groups, numbers, st.sampled_from([None, "correct", "wrong"]))
def test_a_sum_is_weighted_and_conditions_hold(
    values: list[tuple[float, bool]], weight: float, only_if: Any
) -> None:
    group = [make_sample(value, correct=correct) for value, correct in values]
    terms = (WeightedTerm("one", Given(), weight, only_if), WeightedTerm("two", Halves(), 3.0))
    for (value, correct), got in zip(
        values, reward(Composition(terms, len(group)), group), strict=True
    ):
        counts = only_if is None or correct == (only_if == "correct")
        expected = weight * value * counts + 3.0 * (value / 2 + len(group))
        assert got == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(groups, st.floats(-10, 10))
def test_gdpo_normalises_each_term_in_its_group(
    values: list[tuple[float, bool]], weight: float
) -> None:
    group = [make_sample(value, correct=correct) for value, correct in values]
    terms = (WeightedTerm("one", Given(), weight), WeightedTerm("two", Given(), 2.0, "correct"))
    expected = [0.0] * len(group)
    for each, column in (
        (weight, [value for value, _ in values]),
        (2.0, [value * correct for value, correct in values]),
    ):
        mean, deviation = statistics.fmean(column), statistics.stdev(column)
        for index, value in enumerate(column):
            expected[index] += each * (value - mean) / (deviation + 1e-4)
    got = reward(Composition(terms, len(group), "gdpo"), group)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(numbers, st.integers(1, 9))
def test_a_group_without_variance_is_exactly_0(value: float, size: int) -> None:
    composition = Composition((WeightedTerm("one", Given()),), size, "gdpo")
    assert reward(composition, [make_sample(value)] * size) == [0.0] * size


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "nan, not a finite number"),
        (float("-inf"), "-inf, not a finite number"),
        ("1", "str, not a number"),
        (None, "NoneType, not a number"),
        (True, "bool, not a number"),
        (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_what_is_no_number_is_an_error_that_names_the_term(
    value: Any, message: str, together: bool
) -> None:
    def give() -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    class Bad(Term):
        def score(self, sample: Sample) -> float:
            return give()  # type: ignore[no-any-return]

    class BadTogether(GroupTerm):
        def score_group(self, group: Sequence[Sample]) -> list[float]:
            return [give() for _ in group]

    term = BadTogether() if together else Bad()
    with pytest.raises(TermError, match=r"term 'bad' failed: ") as error:
        reward(Composition((WeightedTerm("bad", term),), 2), [make_sample()] * 2)
    assert message in str(error.value)


@pytest.mark.parametrize("count", [lambda n: n - 1, lambda n: n + 1, lambda _: 0])
def test_a_wrong_number_of_values_is_an_error(count: Callable[[int], int]) -> None:
    class Miscounting(GroupTerm):
        def score_group(self, group: Sequence[Sample]) -> list[float]:
            return [0.0] * count(len(group))

    with pytest.raises(TermError, match=r"term 'bad' failed: .* values for 3 rollouts"):
        reward(Composition((WeightedTerm("bad", Miscounting()),), 3), [make_sample()] * 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({0.5, 0.25}, "its values are a set, which has no order"),
        ({0.5: "a", 0.25: "b"}, "its values are a dict, which has no order"),
        (itertools.repeat(0.5), "at least 3 values for 2 rollouts"),
        (0.5, "its values are float, not a list"),
    ],
    ids=["set", "dict", "endless", "number"],
)
def test_what_is_no_list_of_values_is_an_error(values: Any, message: str) -> None:
    class Bad(GroupTerm):
        def score_group(self, group: Sequence[Sample]) -> Any:
            return values

    with pytest.raises(TermError) as error:
        reward(Composition((WeightedTerm("bad", Bad()),), 2), [make_sample()] * 2)
    assert message in str(error.value)


def test_a_term_cannot_change_the_group() -> None:
    """Sorted in place, the rollouts would get each other's values of the next terms."""

    class Sorting(GroupTerm):
        def score_group(self, group: Any) -> list[float]:
            group.sort(key=lambda one: one.num_tokens)
            return [float(one.num_tokens) for one in group]

    with pytest.raises(TermError, match="'tuple' object has no attribute 'sort'"):
        reward(Composition((WeightedTerm("bad", Sorting()),), 2), [make_sample()] * 2)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("together", [False, True])
def test_a_term_in_a_thread_may_raise_anything(raised: type[BaseException], together: bool) -> None:
    """Where connections are served, these would end more than the request."""

    class Bad(Term):
        def score(self, sample: Sample) -> float:
            raise raised

    class BadTogether(GroupTerm):
        def score_group(self, group: Sequence[Sample]) -> list[float]:
            raise raised

    composition = Composition((WeightedTerm("bad", BadTogether() if together else Bad()),), 2)
    with ThreadPoolExecutor(1) as thread, pytest.raises(TermError, match=raised.__name__):
        thread.submit(reward, composition, [make_sample()] * 2).result(30)
    if raised is KeyboardInterrupt:  # in the main thread, it is the user's
        with pytest.raises(KeyboardInterrupt):
            reward(composition, [make_sample()] * 2)
