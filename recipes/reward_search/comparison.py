"""Compares the finalists with the controls, on the problems that no ranking has seen.

Every pair is tested, and p-values are multiplied by the number of pairs (Bonferroni). McNemar's
exact test looks at the first response to each problem, as it needs one; differences and their
intervals are over all responses.
"""

from __future__ import annotations

from dataclasses import dataclass

from eval.statistics.metrics import NUM_RESAMPLES
from eval.statistics.paired import PairedBenchmark, SignificanceTest
from eval.statistics.pairs import compare_all_pairs
from recipes.cpu_demo.arms import BASELINE
from recipes.cpu_demo.results import Measurement, Row, build_row, measure_samples
from recipes.reward_search.finalists import choose_finalists
from recipes.reward_search.loop import find_winner, rank_candidates
from recipes.reward_search.rewards import CONTROLS
from recipes.reward_search.scores import Estimates, estimate, read_samples
from recipes.reward_search.screening import find_evaluation, is_done
from recipes.reward_search.state import Search


@dataclass(frozen=True)
class Compared:
    """One finalist or control."""

    label: str
    title: str
    scores: Estimates
    """Of the first seed, on the problems that compare."""


@dataclass(frozen=True)
class Pair:
    """Two of them: `other` against `baseline`, with the first seed."""

    baseline: Compared
    other: Compared
    paired: PairedBenchmark
    """Over all responses; its tests of length are corrected for all pairs."""
    mcnemar: SignificanceTest
    """Of accuracy, over the first response to each problem, corrected for all pairs."""


@dataclass(frozen=True)
class FinalComparison:
    """What the report says about the finalists."""

    compared: list[Compared]
    """The controls first."""
    pairs: list[Pair]
    seeds: list[Row]
    """The rewards that were trained with more than one seed, against correctness alone."""


def compare_finalists(search: Search) -> FinalComparison:
    """Reads the evaluations and computes everything. What was not trained is left out."""
    labels = {arm.name: (arm.name, arm.title) for arm in CONTROLS}
    finalists = choose_finalists(rank_candidates(search), search.settings)
    labels |= {one.name: (one.label, one.title) for one in finalists}
    folders = {
        name: find_evaluation(search.folder, name, search.settings.seed)
        for name in labels
        if is_done(search.folder, name, search.settings.seed)
    }
    if BASELINE.name not in folders:
        return FinalComparison([], [], [])
    samples = {name: read_samples(folder, "comparison") for name, folder in folders.items()}
    first = {
        name: read_samples(folder, "comparison", first_only=True)
        for name, folder in folders.items()
    }
    compared = {
        name: Compared(*labels[name], estimate(one, samples[BASELINE.name]))
        for name, one in samples.items()
    }
    tests = compare_all_pairs(first, NUM_RESAMPLES, 0)
    pairs = [
        Pair(compared[one], compared[two], paired, tests[one, two].accuracy.test)
        for (one, two), paired in compare_all_pairs(samples, NUM_RESAMPLES, 0).items()
    ]
    return FinalComparison(list(compared.values()), pairs, _compare_seeds(search))


def _compare_seeds(search: Search) -> list[Row]:
    """The winner and the controls, over the seeds that each was trained with."""
    winner = find_winner(search)
    titles = {arm.name: arm.title for arm in CONTROLS}
    titles |= {winner.name: winner.title} if winner else {}
    seeds = {
        name: tuple(s for s in search.settings.seeds if is_done(search.folder, name, s))
        for name in titles
    }
    seeds = {
        name: tuple(seed for seed in of_name if seed in seeds[BASELINE.name])
        for name, of_name in seeds.items()
    }
    if len(seeds[BASELINE.name]) < 2:
        return []
    measured = {name: _measure(search, name, of_name) for name, of_name in seeds.items() if of_name}
    return [
        build_row(titles[name], one, None if name == BASELINE.name else measured[BASELINE.name])
        for name, one in measured.items()
    ]


def _measure(search: Search, name: str, seeds: tuple[int, ...]) -> Measurement:
    """The evaluations of one reward, on the problems that compare."""
    folders = [find_evaluation(search.folder, name, seed) for seed in seeds]
    return measure_samples({str(one): read_samples(one, "comparison") for one in folders}, seeds)
