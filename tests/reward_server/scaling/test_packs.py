"""Packs and results as bytes: what goes in comes out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reward_server.scaling.packs import (
    decode_pack,
    decode_results,
    encode_pack,
    encode_results,
)
from sar.scoring import TokenSequence

ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)
sequences = st.builds(TokenSequence, ids, ids, st.booleans())


@given(st.lists(sequences, max_size=12))
def test_a_pack_comes_out_as_it_went_in(made: list[TokenSequence]) -> None:
    linked = list(made)
    for index in range(1, len(made)):
        if made[index].wants_certainty:  # any choice that hypothesis can shrink
            one = made[index]
            linked[index] = TokenSequence(
                one.context_ids, one.response_ids, True, continues=linked[index - 1]
            )
    decoded = decode_pack(encode_pack(linked))
    assert decoded == linked
    positions = {id(one): index for index, one in enumerate(decoded)}
    for index, one in enumerate(linked):
        if one.continues is not None:  # of the same pack, not only equal
            continued = decoded[index].continues
            assert positions[id(continued)] == index - 1


def test_a_sequence_may_continue_a_later_one() -> None:
    later = TokenSequence([1, 2], [3])
    first = TokenSequence([1, 2, 3], [4], continues=later)
    decoded = decode_pack(encode_pack([first, later]))
    assert decoded[0].continues is decoded[1]


def test_a_sequence_that_continues_one_elsewhere_stands_alone() -> None:
    first = TokenSequence([1, 2, 3], [4], continues=TokenSequence([1, 2], [3]))
    (decoded,) = decode_pack(encode_pack([first]))
    assert decoded == TokenSequence([1, 2, 3], [4])


@given(
    st.lists(
        st.tuples(st.lists(st.floats(width=32), min_size=1, max_size=9), st.booleans()), max_size=9
    )
)
def test_results_come_out_as_they_went_in(made: list[tuple[list[float], bool]]) -> None:
    results = [
        np.array([numbers, numbers[::-1]] if has_certainty else numbers, np.float32)
        for numbers, has_certainty in made
    ]
    decoded = decode_results(encode_results(results))
    assert [one.shape for one in decoded] == [one.shape for one in results]
    for one, expected in zip(decoded, results, strict=True):
        np.testing.assert_array_equal(one, expected)
        assert one.dtype == np.float32


def test_results_of_any_layout_are_written_in_order() -> None:
    column = np.arange(6, dtype=np.float32).reshape(3, 2)[:, 0]
    (decoded,) = decode_results(encode_results([column]))
    assert decoded.tolist() == [0, 2, 4]
