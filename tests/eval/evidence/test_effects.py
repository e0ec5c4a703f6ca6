"""The statistics of scores, against scipy and statsmodels and by their coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import statsmodels.api

from eval.errors import UserError
from eval.evidence.effects import (
    adjusted_difference,
    cohens_d,
    draw_counts,
    rank_correlation,
    share_higher,
    summarize,
)
from eval.evidence.scores import Score
from eval.evidence.tables import make_tables

NUM_RESAMPLES = 1000


def make_score(rollout: int, variant: str, sar: float, correctness: int, tokens: int = 9) -> Score:
    return Score(rollout, variant, tokens, math.log1p(-sar), 0.0, correctness)


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    """60 right and 40 wrong responses: right ones have 0.1 more, padding costs 0.3."""
    random = np.random.default_rng(5)
    made = []
    for index in range(100):
        correctness = int(index < 60)
        sar = 0.4 + 0.1 * correctness + random.normal(0, 0.05)
        lower = sar - 0.3 + random.normal(0, 0.02)
        made.append(make_score(index, "honest", sar, correctness, 10 + index % 7))
        made.append(make_score(index, "padded", lower, correctness, 20))
        made.append(make_score(index, "question", sar + 0.2, 0, 20))
    return made


@pytest.fixture(scope="module")
def summary(scores: list[Score]) -> dict[str, Any]:
    return summarize(scores, NUM_RESAMPLES)


def test_pairs_are_rollouts(summary: dict[str, Any], scores: list[Score]) -> None:
    padded = summary["variants"]["right"]["padded"]
    by_key = {(s.rollout, s.variant): s.sar for s in scores}
    gaps = np.array([by_key[i, "padded"] - by_key[i, "honest"] for i in range(60)])
    assert padded["num_rollouts"] == 60
    assert padded["difference"]["value"] == pytest.approx(gaps.mean())
    assert padded["cohens_d_paired"]["value"] == pytest.approx(gaps.mean() / gaps.std())
    expected = scipy.stats.ttest_1samp(gaps, 0).confidence_interval()
    got = padded["difference"]
    assert (got["low"], got["high"]) == pytest.approx((expected.low, expected.high), abs=2e-3)
    assert padded["reward"]["value"] == pytest.approx(
        1 + 0.2 * np.mean([by_key[i, "padded"] for i in range(60)])
    )


def test_a_unanimous_share_has_an_interval(summary: dict[str, Any]) -> None:
    """No resample of 60 agreeing pairs differs, but their rate may be below 100 %."""
    share = summary["variants"]["right"]["padded"]["honest_sar_higher"]
    assert (share["value"], share["high"]) == (1, 1)
    # The interval is a little wider than Clopper and Pearson's.
    bound = 0.025 ** (1 / 60)
    assert bound - 0.02 < share["low"] < bound + 0.005


def test_a_copy_may_have_the_higher_sar_and_the_lower_reward(summary: dict[str, Any]) -> None:
    copied = summary["variants"]["right"]["question"]
    assert copied["honest_sar_higher"]["value"] == 0
    assert copied["honest_reward_higher"]["value"] == 1
    assert summary["variants"]["wrong"]["question"]["honest_reward_higher"]["value"] == 0
    # Every difference is the same, so there is no spread to divide by.
    assert copied["cohens_d_paired"]["value"] is None
    unchanged = summary["variants"]["right"]["honest"]
    assert unchanged["honest_sar_higher"]["value"] == 0.5


def test_the_same_scores_give_the_same_numbers_in_any_order(
    summary: dict[str, Any], scores: list[Score]
) -> None:
    assert summarize(scores, NUM_RESAMPLES) == summary
    tables = make_tables(summary)
    assert tables["right"].count("\n") == 5
    assert "60 right, 40 wrong" in tables["unchanged"]
    assert "[" in tables["wrong"].splitlines()[-1]


def test_groups_against_scipy_and_statsmodels() -> None:
    random = np.random.default_rng(3)
    right, wrong = random.normal(0.5, 1, 50).round(1), random.normal(0, 2, 30).round(1)
    once = np.ones((1, 50)), np.ones((1, 30))
    expected = scipy.stats.mannwhitneyu(right, wrong).statistic / 1500
    assert share_higher(right, wrong, *once)[0] == pytest.approx(expected)
    pooled = math.sqrt((right.var() + wrong.var()) / 2)
    expected = (right.mean() - wrong.mean()) / pooled
    assert cohens_d(right, wrong, *once)[0] == pytest.approx(expected)
    # Rollouts that are drawn twice count twice.
    counts = draw_counts(50, 1, random)
    repeated = np.repeat(right, counts[0].astype(int))
    expected = scipy.stats.mannwhitneyu(repeated, wrong).statistic / 1500
    assert share_higher(right, wrong, counts, once[1])[0] == pytest.approx(expected)

    values, is_right = np.concatenate([right, wrong]), np.repeat([1.0, 0.0], [50, 30])
    covariate = random.normal(0, 1, 80)
    design = statsmodels.api.add_constant(np.stack([is_right, covariate], axis=1))
    expected = statsmodels.api.OLS(values, design).fit().params[1]
    got = adjusted_difference(values, is_right, covariate, np.ones((1, 80)))
    assert got[0] == pytest.approx(expected)

    expected = scipy.stats.spearmanr(values, covariate).statistic
    assert rank_correlation(values[None], covariate[None])[0] == pytest.approx(expected)


def test_the_interval_covers_the_true_difference() -> None:
    """Of 60 samples of two equal groups, about three intervals leave 0 out."""
    random = np.random.default_rng(1)
    num_missed = 0
    for _ in range(60):
        sars = random.normal(0.3, 0.2, 80).clip(-1, 0.99)
        made = [make_score(i, "honest", sar, i % 2, 9 + i) for i, sar in enumerate(sars)]
        found = summarize(made, 400)["unchanged"]["difference"]
        num_missed += not found["low"] <= 0 <= found["high"]
    assert 0 <= num_missed <= 9


def test_a_group_of_one_has_no_interval() -> None:
    made = [make_score(i, "honest", 0.5, int(i > 0)) for i in range(5)]
    with pytest.raises(UserError, match="4 right, 1 wrong"):
        summarize(made, 100)
