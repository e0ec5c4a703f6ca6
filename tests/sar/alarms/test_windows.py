"""Windows against numpy and scipy, and what has no spread at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.alarms.measures import CORRECTNESS, LENGTH, REWARD
from sar.alarms.windows import MAX_SCORE, Block, Window, compare

NUMBERS = st.floats(-1e12, 1e12)


def make_window(rows: Sequence[tuple[float, float, float]], num_blocks: int = 8) -> Window:
    """A window over rows of reward, length and correctness."""
    blocks = []
    for part in np.array_split(np.arange(len(rows)), num_blocks):
        block = Block()
        for index in part:
            block.add(dict(zip((REWARD, LENGTH, CORRECTNESS), rows[index], strict=True)))
        blocks.append(block)
    return Window(blocks)


def draw_rows(seed: int, num: int, length: float = 60.0) -> list[tuple[float, float, float]]:
    rng = np.random.default_rng(seed)
    correct = (rng.random(num) < 0.7).astype(float)
    tokens = rng.normal(length, 12, num) - 5 * correct
    rewards = correct + 0.01 * tokens + rng.normal(0, 0.2, num)
    return [
        (float(r), float(t), float(c)) for r, t, c in zip(rewards, tokens, correct, strict=True)
    ]


def test_moments_are_those_of_numpy() -> None:
    rows = draw_rows(0, 256)
    window = make_window(rows)
    for column, name in enumerate((REWARD, LENGTH, CORRECTNESS)):
        values = np.array(rows)[:, column]
        assert window.mean(name) == pytest.approx(values.mean())
        assert window.moments[name].deviation == pytest.approx(values.std())
    correlation = np.corrcoef(np.array(rows).T)[0, 1]
    assert window.correlate_with_reward(LENGTH) == pytest.approx(correlation)


def test_the_z_score_is_welch_s_over_block_means() -> None:
    stats = pytest.importorskip("scipy.stats")
    before, after = draw_rows(1, 256), draw_rows(2, 256, length=66.0)
    change = compare(make_window(before), make_window(after), LENGTH)
    assert change
    means = [
        [part.mean() for part in np.array_split(np.array(rows)[:, 1], 8)]
        for rows in (after, before)
    ]
    assert change.z == pytest.approx(stats.ttest_ind(*means, equal_var=False).statistic)
    spread = math.sqrt((np.var(np.array(before)[:, 1]) + np.var(np.array(after)[:, 1])) / 2)
    assert change.effect == pytest.approx((change.after - change.before) / spread)


def test_the_partial_correlation_is_that_of_residuals() -> None:
    rows = np.array(draw_rows(3, 256))
    reward, length, correct = rows.T
    design = np.stack([np.ones_like(correct), correct], axis=1)

    def residual(values: np.ndarray) -> np.ndarray:
        fitted: np.ndarray = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        left: np.ndarray = values - fitted
        return left

    partial, rest = make_window([tuple(row) for row in rows]).partial_correlation()
    expected = np.corrcoef(residual(reward), residual(length))[0, 1]
    assert partial == pytest.approx(expected)
    assert rest == pytest.approx(residual(reward).var() / reward.var())
    # The share is what R squared gains when length joins correctness.
    both = np.concatenate([design, length[:, None]], axis=1)
    left = reward - both @ np.linalg.lstsq(both, reward, rcond=None)[0]
    gain = (residual(reward).var() - left.var()) / reward.var()
    assert partial**2 * rest == pytest.approx(gain)


def test_correctness_alone_leaves_nothing_to_length() -> None:
    rows = [(correct, length, correct) for _, length, correct in draw_rows(4, 256)]
    assert make_window(rows).partial_correlation() == (0.0, 0.0)


@given(st.tuples(NUMBERS, NUMBERS, st.sampled_from([0.0, 1.0])))
def test_constant_rows_have_no_spread(row: tuple[float, float, float]) -> None:
    window = make_window([row] * 64)
    change = compare(window, make_window([row] * 64), LENGTH)
    assert change
    assert (change.z, change.effect) == (0.0, 0.0)
    assert window.partial_correlation() == (0.0, 0.0)
    assert window.correlate_with_reward(LENGTH) == 0.0
    assert window.moments[LENGTH].deviation == 0.0


def test_a_change_without_spread_is_as_sure_as_can_be() -> None:
    before, after = make_window([(1.0, 9.0, 1.0)] * 64), make_window([(1.0, 8.0, 1.0)] * 64)
    change = compare(before, after, LENGTH)
    assert change
    assert (change.z, change.effect) == (-MAX_SCORE, -MAX_SCORE)


def test_too_few_blocks_with_a_measure_are_no_comparison() -> None:
    whole = make_window(draw_rows(5, 64))
    assert compare(whole, make_window(draw_rows(6, 64), num_blocks=3), LENGTH) is None
    assert compare(whole, whole, "term unknown") is None


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from([0.0, 1.0])), min_size=16, max_size=48))
def test_all_numbers_are_finite(rows: list[tuple[float, float, float]]) -> None:
    half = len(rows) // 2
    before, after = make_window(rows[:half]), make_window(rows[half:])
    change = compare(before, after, REWARD)
    assert change
    numbers = [*vars(change).values(), *after.partial_correlation()]
    numbers.append(after.correlate_with_reward(LENGTH))
    assert all(map(math.isfinite, numbers))
    assert abs(change.z) <= MAX_SCORE
