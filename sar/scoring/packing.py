"""Packing: several sequences share one forward pass, without padding.

A pack is one row of tokens: a context, the responses to it, the next context, and so on. Each
context is stored once. The rollouts of one prompt share their context, and so do all sequences that
follow the empty-question prompt. A sequence that continues another one (`TokenSequence.continues`)
comes right after it, and shares its context and the start of its response.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sar.scoring.base import TokenSequence

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """The tokens [start, stop) of a pack: a context, or a response without its last token.

    They attend to each other causally, and to all tokens [context_start, context_stop) of the pack.
    A segment that continues a response attends to the response's tokens [shared_start, shared_stop)
    too, which come between the two.
    """

    start: int
    stop: int
    context_start: int = 0
    context_stop: int = 0
    shared_start: int = 0
    shared_stop: int = 0

    @property
    def num_context_tokens(self) -> int:
        """How many tokens come before the segment in its sequence."""
        return self.context_stop - self.context_start + self.shared_stop - self.shared_start

    @property
    def num_visible_tokens(self) -> int:
        """How many tokens the segment's last token attends to, itself included."""
        return self.num_context_tokens + self.stop - self.start


@dataclass
class Pack:
    """One forward pass over T tokens that predicts N response tokens.

    A response's last token is left out, because it predicts no response token.
    """

    segments: list[Segment] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    """Indices of the pack's sequences, in the order of their responses in `targets_N`."""
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
        """Position in the pack of the hidden state that predicts each response token."""
        return np.concatenate(self._predictors)

    @property
    def targets_N(self) -> Ints:
        """Ids of the response tokens."""
        return np.concatenate([np.asarray(ids, np.int64) for ids in self._targets])

    @property
    def response_lengths(self) -> list[int]:
        return [len(ids) for ids in self._targets]

    def add_context(self, ids: Sequence[int]) -> Segment:
        """Appends a context and returns its segment, which `add_response` takes."""
        return self._append(ids, Segment(self.num_tokens, self.num_tokens + len(ids)))

    def add_response(self, index: int, ids: Sequence[int], context: Segment) -> None:
        """Appends a response to a context of this pack; `index` is its sequence's index."""
        start = self.num_tokens
        if inputs := ids[:-1]:
            self._append(inputs, Segment(start, start + len(inputs), context.start, context.stop))
        # The context's last token predicts the first response token.
        self._predictors += [np.array([context.stop - 1]), np.arange(start, self.num_tokens)]
        self._targets.append(ids)
        self.members.append(index)

    def add_continuation(
        self, index: int, sequence: TokenSequence, context: Segment, start: int, num_shared: int
    ) -> None:
        """Appends what a sequence adds to a context and to the response to it.

        Args:
            context: the context that the sequence starts with.
            start: where in the pack the response starts that it continues.
            num_shared: how many of the response's tokens follow the context in the sequence too.
        """
        num_known = context.stop - context.start + num_shared
        own = sequence.context_ids[num_known:] + sequence.response_ids[:-1]
        first = self.num_tokens
        if own:
            shared = (start, start + num_shared)
            self._append(
                own, Segment(first, first + len(own), context.start, context.stop, *shared)
            )
        # The last tokens of the sequence, of which there may be one more than it adds.
        num_own = min(len(own), len(sequence.response_ids))
        if num_own < len(sequence.response_ids):
            last_known = start + num_shared if num_shared else context.stop
            self._predictors.append(np.array([last_known - 1]))
        self._predictors.append(np.arange(self.num_tokens - num_own, self.num_tokens))
        self._targets.append(sequence.response_ids)
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
    """Distributes sequences over packs of at most `max_tokens` tokens.

    A sequence that exceeds `max_tokens` gets a pack of its own. Sequences of more than
    `long_tokens` tokens, not counting their last, share no pack with shorter ones.
    """
    continuations = _find_continuations(sequences, max_tokens, long_tokens)
    continuing = {one.member for several in continuations.values() for one in several}
    groups: dict[tuple[bool, tuple[int, ...]], list[int]] = {}
    for index, sequence in enumerate(sequences):
        if index in continuing:
            continue
        is_long = len(sequence) - 1 > long_tokens
        groups.setdefault((is_long, tuple(sequence.context_ids)), []).append(index)
    packs = [Pack()]
    was_long = False
    for (is_long, _), indices in sorted(groups.items(), key=lambda group: group[0][0]):
        if is_long and not was_long:
            packs.append(Pack())
        was_long = is_long
        context: Segment | None = None
        for index in indices:
            sequence = sequences[index]
            followed_by = continuations.get(index, [])
            num_new = len(sequence.response_ids) - 1 + sum(one.num_own for one in followed_by)
            num_new += 0 if context else len(sequence.context_ids)
            if packs[-1].members and packs[-1].num_tokens + num_new > max_tokens:
                packs.append(Pack())
                context = None
            context = context or packs[-1].add_context(sequence.context_ids)
            start = packs[-1].num_tokens
            packs[-1].add_response(index, sequence.response_ids, context)
            for one in followed_by:
                packs[-1].add_continuation(
                    one.member, sequences[one.member], context, start, one.num_shared
                )
    return [pack for pack in packs if pack.members]


class _Continuation(NamedTuple):
    member: int
    """Index of the sequence that continues another."""
    num_shared: int
    """Tokens of the other sequence's response that it shares."""
    num_own: int
    """Tokens that it adds to a pack."""


def _find_continuations(
    sequences: Sequence[TokenSequence], max_tokens: int, long_tokens: float
) -> dict[int, list[_Continuation]]:
    """Which sequences continue a sequence, by its index. Those that do not fit into one pack with
    it, or differ from it too soon, are left out."""
    found: dict[int, list[_Continuation]] = {}
    if all(sequence.continues is None for sequence in sequences):
        return found
    indices = {id(sequence): index for index, sequence in enumerate(sequences)}
    num_tokens: dict[int, int] = {}
    for index, sequence in enumerate(sequences):
        other = sequence.continues
        if other is None or (other_index := indices.get(id(other))) is None:
            continue
        num_context = len(other.context_ids)
        is_long = [len(one) - 1 > long_tokens for one in (sequence, other)]
        if sequence.context_ids[:num_context] != other.context_ids or is_long[0] != is_long[1]:
            continue
        both = zip(sequence.context_ids[num_context:], other.response_ids[:-1], strict=False)
        num_shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
        num_own = len(sequence) - 1 - num_context - num_shared
        total = num_tokens.get(other_index, len(other) - 1) + num_own
        if total <= max_tokens and other.continues is None:
            num_tokens[other_index] = total
            found.setdefault(other_index, []).append(_Continuation(index, num_shared, num_own))
    return found
