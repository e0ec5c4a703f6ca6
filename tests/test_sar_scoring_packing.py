"""Batches under a token budget."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sar.scoring.packing import plan_batches

lengths = st.lists(st.integers(1, 200), max_size=40)


@given(lengths, st.integers(1, 500))
def test_every_sequence_is_in_one_batch(lengths, max_tokens):
    batches = plan_batches(lengths, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)


@given(lengths, st.integers(1, 500))
def test_padded_batches_keep_the_budget_unless_alone(lengths, max_tokens):
    for batch in plan_batches(lengths, max_tokens):
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= max_tokens or len(batch) == 1


@given(lengths, st.integers(1, 500))
def test_a_batch_is_not_closed_while_the_next_sequence_fits(lengths, max_tokens):
    batches = plan_batches(lengths, max_tokens)
    for batch, following in pairwise(batches):
        assert lengths[following[0]] * (len(batch) + 1) > max_tokens


@given(lengths)
def test_similar_lengths_share_a_batch(lengths):
    planned = [lengths[i] for batch in plan_batches(lengths, 300) for i in batch]
    assert planned == sorted(lengths)


def test_nothing_makes_no_batch():
    assert plan_batches([], 100) == []


def test_exactly_the_budget_fits():
    assert plan_batches([10, 10, 10], 20) == [[0, 1], [2]]
