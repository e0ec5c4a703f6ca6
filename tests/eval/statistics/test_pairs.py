"""All pairs of runs, and the correction for their number."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from eval.records import Record
from eval.statistics.paired import MCNEMAR
from eval.statistics.pairs import compare_all_pairs
from eval.statistics.samples import Samples, collect_samples

NUM_PROBLEMS = 120


def make_run(seed: int, accuracy: float, tokens: int) -> tuple[Samples, np.ndarray]:
    right = np.random.default_rng(seed).random(NUM_PROBLEMS) < accuracy
    records = [
        Record(str(i), 0, "", "", "", "1", bool(one), "correct", "1", tokens + i % 7, "stop", 0)
        for i, one in enumerate(right)
    ]
    return collect_samples(records), right


def test_each_pair_is_tested_and_corrected_for_all() -> None:
    made = {
        "a": make_run(1, 0.5, 60),
        "b": make_run(2, 0.55, 60),
        "c": make_run(3, 0.7, 50),
        "d": make_run(4, 0.9, 40),
    }
    found = compare_all_pairs({name: run for name, (run, _) in made.items()}, 500, 0)
    assert list(found) == list(combinations("abcd", 2))
    expected = []
    for one, two in found:
        first, second = made[one][1], made[two][1]
        table = [[int((first & second).sum()), int((first & ~second).sum())],
                 [int((~first & second).sum()), int((~first & ~second).sum())]]  # fmt: skip
        expected.append(mcnemar(table, exact=True).pvalue)
    tests = [paired.accuracy.test for paired in found.values()]
    assert {test.name for test in tests} == {MCNEMAR}
    assert [test.p for test in tests] == pytest.approx(expected)
    for method in ("bonferroni", "holm"):
        corrected = multipletests(expected, method=method)[1]
        assert [getattr(test, method) for test in tests] == pytest.approx(corrected)
    for (one, two), paired in found.items():
        gain = made[two][1].mean() - made[one][1].mean()
        assert paired.accuracy.gain.value == pytest.approx(gain)
        assert paired.tokens.test.bonferroni is not None
        assert paired.tokens.test.p is not None
        assert paired.tokens.test.bonferroni == pytest.approx(min(1, 6 * paired.tokens.test.p))


def test_one_run_has_no_pair() -> None:
    assert compare_all_pairs({"a": make_run(1, 0.5, 60)[0]}, 100, 0) == {}
