"""All pairs of several runs, over the same problems: one family of tests.

Picking the pairs to test after seeing the results would make the p-values too small. So every pair
is tested, and the p-values are corrected for the number of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

from eval.statistics.bootstrap import make_generator
from eval.statistics.paired import PairedBenchmark, compare_benchmark, correct_p_values
from eval.statistics.samples import Samples


def compare_all_pairs(
    runs: Mapping[str, Samples], num_resamples: int, seed: int
) -> dict[tuple[str, str], PairedBenchmark]:
    """Compares each run with each later one, which is `other`. The pair's first is `baseline`.

    Args:
        runs: by name.
    Returns:
        For each pair the differences. The tests of accuracy are one family and those of length
        another: `holm` and `bonferroni` correct for the number of pairs.
    """
    pairs = {
        (one, two): compare_benchmark(
            runs[one], runs[two], num_resamples, make_generator(seed, f"{one}\0{two}")
        )
        for one, two in combinations(runs, 2)
    }
    accuracy = correct_p_values([paired.accuracy.test for paired in pairs.values()])
    tokens = correct_p_values([paired.tokens.test for paired in pairs.values()])
    return {
        names: replace(
            paired,
            accuracy=replace(paired.accuracy, test=of_accuracy),
            tokens=replace(paired.tokens, test=of_tokens),
        )
        for (names, paired), of_accuracy, of_tokens in zip(
            pairs.items(), accuracy, tokens, strict=True
        )
    }
