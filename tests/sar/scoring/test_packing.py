"""Packs hold each sequence once, keep to the budget and share contexts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sar.scoring import TokenSequence
from sar.scoring.packing import Pack, Segment, plan_packs

# Few ids, few contexts: collisions are the point.
ids = st.lists(st.integers(0, 3), min_size=1, max_size=8)
budgets = st.integers(1, 60)
few = settings(max_examples=50)


@st.composite
def sharing(draw: st.DrawFn) -> list[TokenSequence]:
    """Sequences over a handful of contexts, in any order, as groups of rollouts are."""
    contexts = draw(st.lists(ids, min_size=1, max_size=4))
    pairs = draw(st.lists(st.tuples(st.sampled_from(contexts), ids), max_size=16))
    # Copies, as contexts are shared by value.
    return [TokenSequence(list(context), list(response)) for context, response in pairs]


@st.composite
def continuing(draw: st.DrawFn) -> list[TokenSequence]:
    """The same, and sequences that continue some of them, or only say so."""
    sequences = draw(sharing())
    for sequence in list(sequences):
        for _ in range(draw(st.integers(0, 2))):
            num_kept = draw(st.integers(0, len(sequence.response_ids)))
            context = sequence.context_ids + sequence.response_ids[:num_kept]
            context += draw(st.just([]) | ids)
            context = draw(st.sampled_from([context, context, context, [2, *context]]))
            sequences.append(TokenSequence(context, draw(ids), continues=sequence))
    return draw(st.permutations(sequences))


def cost(sequence: TokenSequence) -> int:
    """Tokens of a pack that holds nothing else; the last one predicts nothing."""
    return len(sequence) - 1


def split(pack: Pack) -> list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """What the members' responses take of a pack's N: (index, predictors, targets) each."""
    stops = np.cumsum(pack.response_lengths)
    predictors = np.split(pack.predictors_N, stops[:-1])
    targets = np.split(pack.targets_N, stops[:-1])
    return list(zip(pack.members, predictors, targets, strict=True))


def segment_of(pack: Pack, token: int) -> Segment:
    (found,) = [s for s in pack.segments if s.start <= token < s.stop]
    return found


def seen_by(pack: Pack, token: int) -> list[int]:
    """Indices of the tokens that a token sees, itself last: by what a segment says of itself."""
    segment = segment_of(pack, token)
    return [
        *range(segment.context_start, segment.context_stop),
        *range(segment.shared_start, segment.shared_stop),
        *range(segment.start, token + 1),
    ]


@few
@given(sharing() | continuing(), budgets)
def test_every_sequence_is_in_one_pack_once(sequences: list[TokenSequence], budget: int) -> None:
    packs = plan_packs(sequences, budget)
    assert sorted(i for pack in packs for i in pack.members) == list(range(len(sequences)))
    assert all(pack.members for pack in packs)


@few
@given(sharing() | continuing(), budgets)
def test_a_predictor_sees_exactly_its_sequence_up_to_the_token_it_predicts(
    sequences: list[TokenSequence], budget: int
) -> None:
    for pack in plan_packs(sequences, budget):
        token_ids, positions = pack.token_ids_T, pack.positions_T
        for index, predictors, targets in split(pack):
            sequence = sequences[index]
            assert targets.tolist() == sequence.response_ids
            whole = sequence.context_ids + sequence.response_ids
            for t, predictor in enumerate(predictors):
                seen = seen_by(pack, predictor)
                wanted = whole[: len(sequence.context_ids) + t]
                assert token_ids[seen].tolist() == wanted
                assert positions[seen].tolist() == list(range(len(wanted)))


@few
@given(sharing() | continuing(), budgets)
def test_the_budget_is_kept_unless_one_sequence_alone_exceeds_it(
    sequences: list[TokenSequence], budget: int
) -> None:
    for pack in plan_packs(sequences, budget):
        assert pack.num_tokens <= budget or len(pack.members) == 1
        if len(pack.members) == 1:
            assert pack.num_tokens == cost(sequences[pack.members[0]])


@few
@given(sharing(), budgets)
def test_a_context_lies_once_in_a_pack_however_many_responses_share_it(
    sequences: list[TokenSequence], budget: int
) -> None:
    for pack in plan_packs(sequences, budget):
        roots = [s for s in pack.segments if not s.num_context_tokens]
        contexts = [tuple(pack.token_ids_T[s.start : s.stop]) for s in roots]
        members = [sequences[index] for index in pack.members]
        assert sorted(contexts) == sorted({tuple(m.context_ids) for m in members})
        assert pack.num_tokens == sum(map(len, contexts)) + sum(
            len(m.response_ids) - 1 for m in members
        )


@few
@given(sharing(), budgets)
def test_a_pack_is_not_closed_while_the_next_sequence_fits(
    sequences: list[TokenSequence], budget: int
) -> None:
    packs = plan_packs(sequences, budget)
    for pack, following in pairwise(packs):
        sequence = sequences[following.members[0]]
        shared = tuple(sequence.context_ids) == tuple(sequences[pack.members[-1]].context_ids)
        num_new = cost(sequence) - shared * len(sequence.context_ids)
        assert pack.num_tokens + num_new > budget


@few
@given(sharing(), budgets)
def test_segments_tile_the_pack_in_order_and_look_back_at_whole_contexts(
    sequences: list[TokenSequence], budget: int
) -> None:
    for pack in plan_packs(sequences, budget):
        edges = [0, *(s.stop for s in pack.segments)]
        assert [s.start for s in pack.segments] == edges[:-1]
        assert edges[-1] == pack.num_tokens
        assert all(s.start < s.stop for s in pack.segments)
        roots = {(s.start, s.stop) for s in pack.segments if not s.num_context_tokens}
        for s in pack.segments:
            assert s.num_visible_tokens == s.num_context_tokens + s.stop - s.start
            if s.num_context_tokens:
                assert (s.context_start, s.context_stop) in roots
                assert s.context_stop <= s.start


@few
@given(sharing() | continuing(), budgets)
def test_arrays_are_as_long_as_the_pack_says(sequences: list[TokenSequence], budget: int) -> None:
    for pack in plan_packs(sequences, budget):
        num_targets = sum(len(sequences[index].response_ids) for index in pack.members)
        assert pack.token_ids_T.shape == pack.positions_T.shape == (pack.num_tokens,)
        assert pack.predictors_N.shape == pack.targets_N.shape == (num_targets,)
        assert pack.response_lengths == [len(sequences[i].response_ids) for i in pack.members]
        arrays = (pack.token_ids_T, pack.positions_T, pack.predictors_N, pack.targets_N)
        assert {array.dtype for array in arrays} == {np.dtype(np.int64)}


@few
@given(sharing() | continuing())
def test_with_budget_enough_there_is_one_pack(sequences: list[TokenSequence]) -> None:
    packs = plan_packs(sequences, 10_000)
    assert len(packs) == (1 if sequences else 0)


@few
@given(sharing() | continuing())
def test_with_a_budget_of_one_sequences_are_alone_unless_they_are_one_token(
    sequences: list[TokenSequence],
) -> None:
    for pack in plan_packs(sequences, 1):
        assert len(pack.members) == 1 or pack.num_tokens == 1


@few
@given(sharing() | continuing(), budgets)
def test_planning_changes_no_sequence(sequences: list[TokenSequence], budget: int) -> None:
    before = [(list(s.context_ids), list(s.response_ids)) for s in sequences]
    plan_packs(sequences, budget)
    assert [(s.context_ids, s.response_ids) for s in sequences] == before


def test_no_sequences_no_packs() -> None:
    assert plan_packs([], 100) == []


def test_responses_of_one_token_add_nothing_to_their_context() -> None:
    sequences = [TokenSequence([7, 8, 9], [token]) for token in range(5)]
    (pack,) = plan_packs(sequences, 3)
    assert pack.num_tokens == 3
    assert pack.token_ids_T.tolist() == [7, 8, 9]
    assert pack.predictors_N.tolist() == [2] * 5
    assert pack.targets_N.tolist() == [0, 1, 2, 3, 4]
    assert [(s.start, s.stop) for s in pack.segments] == [(0, 3)]


def test_the_smallest_sequence_is_a_pack_of_one_token() -> None:
    (pack,) = plan_packs([TokenSequence([5], [6])], 1)
    assert pack.token_ids_T.tolist() == [5]
    assert (pack.predictors_N.tolist(), pack.targets_N.tolist()) == ([0], [6])


def test_identical_sequences_are_scored_each() -> None:
    (pack,) = plan_packs([TokenSequence([1, 2], [3, 4, 5])] * 3, 100)
    assert pack.members == [0, 1, 2]
    assert pack.token_ids_T.tolist() == [1, 2, 3, 4, 3, 4, 3, 4]
    assert pack.positions_T.tolist() == [0, 1, 2, 3, 2, 3, 2, 3]
    assert pack.predictors_N.tolist() == [1, 2, 3, 1, 4, 5, 1, 6, 7]
    assert pack.targets_N.tolist() == [3, 4, 5] * 3


def test_rollouts_of_one_prompt_find_each_other_wherever_they_are() -> None:
    prompts = [[1, 1], [2, 2], [0]]
    sequences = [TokenSequence(prompts[i % 3], [3, 3, i]) for i in range(9)]
    (pack,) = plan_packs(sequences, 100)
    assert pack.members == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert pack.num_tokens == 2 + 2 + 1 + 9 * 2


def test_a_context_that_begins_another_is_not_taken_for_it() -> None:
    sequences = [TokenSequence([1, 2], [3, 4]), TokenSequence([1], [2, 3, 4])]
    (pack,) = plan_packs(sequences, 100)
    assert pack.token_ids_T.tolist() == [1, 2, 3, 1, 2, 3]
    assert sum(not s.num_context_tokens for s in pack.segments) == 2


def test_a_sequence_adds_only_what_the_one_that_it_continues_lacks() -> None:
    rollout = TokenSequence([1, 2], [3, 4, 5])
    sequences = [
        TokenSequence([1, 2, 3, 7], [8, 9], continues=rollout),
        rollout,
        TokenSequence([1, 2], [6]),
        TokenSequence([1, 2, 3, 4], [8], continues=rollout),  # has all that it needs
        TokenSequence([1, 2, 3, 4, 5], [8], continues=rollout),  # the 5 is not in the pack
        TokenSequence([1, 2], [8, 9], continues=rollout),
    ]
    (pack,) = plan_packs(sequences, 100)
    assert pack.token_ids_T.tolist() == [1, 2, 3, 4, 7, 8, 5, 8]
    assert pack.positions_T.tolist() == [0, 1, 2, 3, 3, 4, 4, 2]
    assert pack.members == [1, 0, 3, 4, 5, 2]
    assert pack.predictors_N.tolist() == [1, 2, 3, 4, 5, 3, 6, 1, 7, 1]
    assert pack.targets_N.tolist() == [3, 4, 5, 8, 9, 8, 8, 8, 9, 6]


@pytest.mark.parametrize(
    ("budget", "members"), [(6, [[0, 1, 2]]), (5, [[0, 1], [2]]), (4, [[0], [1], [2]])]
)
def test_continuations_that_do_not_fit_have_packs_of_their_own(
    budget: int, members: list[list[int]]
) -> None:
    rollout = TokenSequence([1, 2], [3, 4, 5])
    sequences = [
        rollout,
        TokenSequence([1, 2, 3], [8, 9], continues=rollout),
        TokenSequence([1, 2, 3], [9, 9], continues=rollout),
    ]
    assert [pack.members for pack in plan_packs(sequences, budget)] == members


def test_a_context_is_repeated_in_the_next_pack() -> None:
    sequences = [TokenSequence([1, 2, 3], [4, 5, 6])] * 4
    packs = plan_packs(sequences, 7)
    assert [pack.members for pack in packs] == [[0, 1], [2, 3]]
    for pack in packs:
        assert pack.token_ids_T.tolist() == [1, 2, 3, 4, 5, 4, 5]


def test_a_sequence_over_the_budget_is_alone_in_its_pack() -> None:
    sequences = [
        TokenSequence([1], [2]),
        TokenSequence([3] * 10, [4] * 10),
        TokenSequence([5], [6]),
    ]
    assert [pack.members for pack in plan_packs(sequences, 5)] == [[0], [1], [2]]


@pytest.mark.parametrize(("budget", "num_packs"), [(5, 2), (6, 1)])
def test_the_budget_is_exact(budget: int, num_packs: int) -> None:
    sequences = [TokenSequence([1, 1], [1, 1]), TokenSequence([2, 2], [2, 2])]
    assert len(plan_packs(sequences, budget)) == num_packs


def test_a_new_pack_is_empty() -> None:
    assert (Pack().num_tokens, Pack().members, Pack().response_lengths) == (0, [], [])
    assert Pack().segments is not Pack().segments


@few
@given(sharing() | continuing(), budgets, st.integers(1, 16))
def test_long_sequences_are_packed_apart_from_short_ones(
    sequences: list[TokenSequence], budget: int, long_tokens: int
) -> None:
    packs = plan_packs(sequences, budget, long_tokens)
    assert sorted(i for pack in packs for i in pack.members) == list(range(len(sequences)))
    for pack in packs:
        assert len({len(sequences[i]) - 1 > long_tokens for i in pack.members}) == 1
