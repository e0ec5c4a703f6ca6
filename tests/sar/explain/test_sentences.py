"""Sentences, and the sums over their tokens."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.explain.explanation import ExplainedToken
from sar.explain.sentences import sum_sentences


def tokens_of(response: str, length: int = 1) -> list[ExplainedToken]:
    """Tokens of so many characters, each with likelihoods of its own."""
    return [
        ExplainedToken(response[i : i + length], i, i + length, 0.25 * i, 1.0 + 0.5 * i)
        for i in range(0, len(response), length)
    ]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ("It is 3.5 apples. So 4.", ["It is 3.5 apples.", " So 4."]),
        ('He said "5." Then (6.) Then', ['He said "5."', " Then (6.)", " Then"]),
        ("A line\nand another\n\n", ["A line\n", "and another\n\n"]),
        ("答案是五。真的吗？是", ["答案是五。", "真的吗？", "是"]),
        ("هل؟ نعم", ["هل؟", " نعم"]),
        ("So 12.<|im_end|>", ["So 12.", "<|im_end|>"]),
        ("5<|im_end|>6", ["5", "<|im_end|>", "6"]),
        ("...", ["..."]),
        (" ", [" "]),
        ("", []),
    ],
)
def test_where_sentences_end(response: str, expected: list[str]) -> None:
    found = sum_sentences(response, tokens_of(response), ["<|im_end|>"])
    assert [response[one.start : one.end] for one in found] == expected


@given(
    st.text(st.sampled_from("ab .!?\n。😀<|im_end|>"), max_size=60),
    st.integers(1, 7),
)
def test_each_token_counts_once(response: str, length: int) -> None:
    tokens = tokens_of(response, length)
    found = sum_sentences(response, tokens, ["<|im_end|>"])
    assert sum(one.num_tokens for one in found) == len(tokens)
    assert math.isclose(sum(one.gain for one in found), sum(t.gain for t in tokens), abs_tol=1e-9)
    for one in found:
        starts = [t.start for t in tokens if one.start <= t.start < one.end]
        assert len(starts) == one.num_tokens > 0
