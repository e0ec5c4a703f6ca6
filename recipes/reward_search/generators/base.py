"""What a generator is: it proposes candidates, perhaps from how earlier ones ranked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from recipes.reward_search.candidates import Candidate, Proposal
from recipes.reward_search.scores import Scores


@dataclass(frozen=True)
class Slot:
    """One candidate that is asked for."""

    name: str
    round: int
    place: int
    """From 1 on, within the round."""


@dataclass(frozen=True)
class Past:
    """An earlier candidate, as it is fed back."""

    candidate: Candidate
    rank: int | None = None
    """1 for the best so far. None if it was not screened."""
    scores: Scores | None = None
    """None if it was not screened."""


class GeneratorError(Exception):
    """The generator cannot propose anything at present. The search ends, and may be continued."""


class Generator(Protocol):
    """Proposes candidates."""

    def check(self) -> None:
        """Finds out, before anything is trained, whether it can propose.

        Raises:
            UserError: it cannot; the message says what to do.
        """

    def propose(
        self,
        slots: Sequence[Slot],
        past: Sequence[Past],
        known: AbstractSet[str],
        timeout_s: float,
    ) -> Iterator[tuple[Slot, Proposal]]:
        """Yields a proposal for each slot, in any order; none for a slot if there are no more.

        Args:
            past: earlier candidates, ranked ones first. Empty without feedback.
            known: the code of all earlier candidates. Proposing one again is of no use.
            timeout_s: a slot without a proposal by then gets one that says so.
        Raises:
            GeneratorError: it can propose for none of the slots at present.
        """
