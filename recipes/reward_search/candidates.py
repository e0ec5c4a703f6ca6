"""What a generator proposes, and what has become of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

Status = Literal["waiting", "rejected", "screened", "failed"]

MAX_KEPT_CHARS = 20_000
"""Of a proposal, in the search's file. Accepted code is shorter."""


@dataclass(frozen=True)
class Proposal:
    """A generator's answer for one candidate: its code, or why there is none."""

    source: str
    """The code. If there is none: what came instead, perhaps nothing."""
    failure: str | None = None
    """Why there is no code."""
    parents: tuple[str, ...] = ()
    """Names of the candidates that it was made from."""
    genes: Any = None
    """What the grammar needs to change it further; a JSON value."""


@dataclass(frozen=True)
class Candidate:
    """One candidate of a search."""

    name: str
    """Such as r2c05: the fifth of round 2."""
    round: int
    source: str
    status: Status
    """waiting: for its training run. failed: the training run ended with an error."""
    reason: str | None = None
    """Why it was rejected or has failed."""
    parents: tuple[str, ...] = ()
    genes: Any = None
    behaviour: str | None = None
    """See `Checked`."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "parents": tuple(values["parents"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Checked:
    """What validation found."""

    reason: str | None
    """Why a candidate is rejected. None: it is accepted."""
    behaviour: str | None = None
    """Digest of its rewards for the probe batch. Equal ones mean candidates that do the same."""


Validate = Callable[[str], Checked]
"""Checks the code of a candidate."""


def name_candidate(round_number: int, place: int) -> str:
    """The name of one candidate of a round, both counted from 1. It also names a reward's term."""
    return f"r{round_number}c{place:02}"


def judge(
    proposal: Proposal,
    name: str,
    round_number: int,
    earlier: Sequence[Candidate],
    validate: Validate,
) -> Candidate:
    """Validates a proposal. The candidate is then waiting or rejected."""
    by_source = {one.source.strip(): one.name for one in reversed(earlier)}
    by_behaviour = {one.behaviour: one.name for one in reversed(earlier) if one.behaviour}
    behaviour = None
    source = proposal.source
    reason = proposal.failure
    if reason is None and (same := by_source.get(source.strip())):
        reason = f"the same code as {same}"
    if reason is None:
        checked = validate(source)
        reason, behaviour = checked.reason, checked.behaviour
        if reason is None and behaviour and (same := by_behaviour.get(behaviour)):
            reason = f"the same rewards for the probe batch as {same}"
    return Candidate(
        name,
        round_number,
        source[:MAX_KEPT_CHARS],
        "waiting" if reason is None else "rejected",
        reason,
        proposal.parents,
        proposal.genes,
        behaviour if reason is None else None,
    )
