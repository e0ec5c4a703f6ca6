"""A seeded generator without a language model: it composes summands, and mutates the best.

The same seed and the same past give the same candidates.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from recipes.reward_search.candidates import Proposal
from recipes.reward_search.generators.base import Past, Slot
from recipes.reward_search.generators.genes import Genome

_NUM_PARENTS = 3
_FRESH_SHARE = 0.2
_CROSSED_SHARE = 0.2
_MAX_TRIES = 50
"""Draws until a candidate differs from all earlier ones."""


class GrammarGenerator:
    """Draws candidates; from the second round on mostly from the best of the past."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def check(self) -> None:
        """It can always propose."""

    def propose(
        self,
        slots: Sequence[Slot],
        past: Sequence[Past],
        known: AbstractSet[str],
        timeout_s: float,
    ) -> Iterator[tuple[Slot, Proposal]]:
        written = set(known)
        parents = [one for one in past if one.rank and one.candidate.genes][:_NUM_PARENTS]
        for slot in slots:
            rng = random.Random(f"{self._seed} {slot.name}")
            for _ in range(_MAX_TRIES):
                genome, names = _draw(rng, parents)
                source = genome.write()
                if source not in written:
                    break
            written.add(source)
            yield slot, Proposal(source, parents=names, genes=genome.to_json())


def _draw(rng: random.Random, parents: Sequence[Past]) -> tuple[Genome, tuple[str, ...]]:
    """A genome, and the names of its parents."""
    kind = rng.random()
    if not parents or kind < _FRESH_SHARE:
        return Genome.draw(rng), ()
    # The best twice as often as the second, and that one twice as often as the third.
    weights = [2.0**-place for place in range(len(parents))]
    (first,) = rng.choices(parents, weights)
    genome = Genome.from_json(first.candidate.genes)
    if len(parents) > 1 and kind < _FRESH_SHARE + _CROSSED_SHARE:
        second = rng.choice([one for one in parents if one is not first])
        crossed = genome.cross(Genome.from_json(second.candidate.genes), rng)
        return crossed, (first.candidate.name, second.candidate.name)
    return genome.mutate(rng), (first.candidate.name,)
