"""Which sequences share a forward pass, and where each lies in it.

A pack is one row of tokens without padding: contexts, each followed by the responses to it that are
in the pack. Rollouts of one prompt share their context, and so do all empty-question sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sar.scoring.base import TokenSequence

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of a pack, which see themselves causally and, before them, the tokens
    [context_start, context_stop) of the same pack."""

    start: int
    stop: int
    context_start: int = 0
    context_stop: int = 0

    @property
    def num_context_tokens(self) -> int:
        return self.context_stop - self.context_start

    @property
    def num_visible_tokens(self) -> int:
        """What the segment's last token sees, itself included."""
        return self.num_context_tokens + self.stop - self.start


@dataclass
class Pack:
    """One forward pass over T tokens that predicts N response tokens.

    The last token of a response predicts nothing and is left out.
    """

    segments: list[Segment] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    """Indices of the sequences, in the order of their responses in `targets_N`."""
    num_tokens: int = 0
    _token_ids: list[Sequence[int]] = field(default_factory=list)
    _positions: list[Ints] = field(default_factory=list)
    _predictors: list[Ints] = field(default_factory=list)
    _targets: list[Sequence[int]] = field(default_factory=list)

    @property
    def token_ids_T(self) -> Ints:
        return np.concatenate([np.asarray(ids, np.int64) for ids in self._token_ids])

    @property
    def positions_T(self) -> Ints:
        """Position of each token in its own sequence."""
        return np.concatenate(self._positions)

    @property
    def predictors_N(self) -> Ints:
        """Where in the pack the hidden state lies that predicts each response token."""
        return np.concatenate(self._predictors)

    @property
    def targets_N(self) -> Ints:
        return np.concatenate([np.asarray(ids, np.int64) for ids in self._targets])

    @property
    def response_lengths(self) -> list[int]:
        return [len(ids) for ids in self._targets]

    def add_context(self, ids: Sequence[int]) -> Segment:
        return self._append(ids, Segment(self.num_tokens, self.num_tokens + len(ids)))

    def add_response(self, index: int, ids: Sequence[int], context: Segment) -> None:
        start = self.num_tokens
        run = ids[:-1]
        if run:
            self._append(run, Segment(start, start + len(run), context.start, context.stop))
        first = np.array([context.stop - 1])
        self._predictors += [first, np.arange(start, self.num_tokens)]
        self._targets.append(ids)
        self.members.append(index)

    def _append(self, ids: Sequence[int], segment: Segment) -> Segment:
        self._token_ids.append(ids)
        self._positions.append(np.arange(segment.num_context_tokens, segment.num_visible_tokens))
        self.segments.append(segment)
        self.num_tokens = segment.stop
        return segment


def plan_packs(
    sequences: Sequence[TokenSequence], max_tokens: int, long_tokens: float = math.inf
) -> list[Pack]:
    """Packs of at most `max_tokens` tokens that hold each sequence once.

    A sequence that alone exceeds the budget gets a pack of its own.

    Args:
        long_tokens: sequences that run through the model with more tokens than this share no pack
            with shorter ones.
    """
    groups: dict[tuple[bool, tuple[int, ...]], list[int]] = {}
    for index, sequence in enumerate(sequences):
        is_long = len(sequence) - 1 > long_tokens
        groups.setdefault((is_long, tuple(sequence.context_ids)), []).append(index)
    packs: list[Pack] = []
    pack = Pack()
    holds_long = False
    for (is_long, _), indices in sorted(groups.items(), key=lambda group: group[0][0]):
        if is_long and not holds_long and pack.members:
            packs.append(pack)
            pack = Pack()
        holds_long = is_long
        context: Segment | None = None
        for index in indices:
            sequence = sequences[index]
            num_new = len(sequence.response_ids) - 1
            num_new += 0 if context else len(sequence.context_ids)
            if pack.members and pack.num_tokens + num_new > max_tokens:
                packs.append(pack)
                pack, context = Pack(), None
            context = context or pack.add_context(sequence.context_ids)
            pack.add_response(index, sequence.response_ids, context)
    if pack.members:
        packs.append(pack)
    return packs
