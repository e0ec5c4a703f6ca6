"""What is trained after the rounds: ensembles, a random draw, and further seeds of the winner."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recipes.reward_search.rewards import (
    CONTROLS,
    RANDOM_DRAW,
    TITLES,
    TOP_BY_RANK,
    TOP_EVEN,
    weigh_by_rank,
    weigh_evenly,
)
from recipes.reward_search.settings import SearchSettings


@dataclass(frozen=True)
class Finalist:
    """A candidate or an ensemble that is compared with the controls."""

    label: str
    """Its short name in the report."""
    title: str
    weights: Mapping[str, float]
    """Of its candidates, by name."""
    can_win: bool = True

    @property
    def name(self) -> str:
        """Of its reward file and its runs. An ensemble of other candidates has another."""
        if self.label in self.weights:
            return self.label
        return f"{self.label}_{zlib.crc32(repr(dict(self.weights)).encode()):08x}"


def choose_finalists(ranked: Sequence[str], settings: SearchSettings) -> list[Finalist]:
    """The best candidate, the ensembles and the random draw, as far as there are enough candidates.

    Args:
        ranked: the names of all screened candidates, best first.
    """
    if not ranked:
        return []
    found = [Finalist(ranked[0], f"candidate {ranked[0]} (the best)", {ranked[0]: 1.0})]
    top = ranked[: settings.top_k]
    if len(top) > 1:
        found.append(Finalist(TOP_EVEN, TITLES[TOP_EVEN], weigh_evenly(top)))
        found.append(Finalist(TOP_BY_RANK, TITLES[TOP_BY_RANK], weigh_by_rank(top)))
    if len(ranked) > len(top) > 1:
        drawn = random.Random(settings.seed).sample(sorted(ranked), len(top))
        weights = weigh_evenly(sorted(drawn))
        found.append(Finalist(RANDOM_DRAW, TITLES[RANDOM_DRAW], weights, can_win=False))
    return found


def count_final_runs(settings: SearchSettings) -> int:
    """Runs after the rounds: both ensembles, the random draw, and the further seeds."""
    return 3 + (settings.num_seeds - 1) * (1 + len(CONTROLS))
