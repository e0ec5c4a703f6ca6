"""Which characters each token stands for, against the bytes of the tokens themselves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sar.explain.spans import Span, locate_tokens
from sar.tokenization import RolloutTokenizer

PROMPT = "Q: 2+3?\nA:"
KINDS = ("byte level", "sentencepiece", "normalizing", "in python")
HOSTILE = [
    "The answer is 5.",
    "",
    " ",
    "  two  spaces  ",
    "\n\nnew lines\r\n",
    "😀",
    "a😀b🇩🇪👩‍👩‍👧‍👦",
    "e\u0301 o\u0308\u0323 ﬁ ½",
    "中文，没有空格。",
    "שלום \u202eworld\u202c مرحبا",
    "\ufffd\ufffd x",
    "\x00\x1b[2J\x7f",
    "<|im_end|>",
    "5<|im_end|><|im_end|><|endoftext|>",
    "</s>the cat</s> the",
]
Texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(HOSTILE)

Tokenizers = Callable[[str], RolloutTokenizer]


def locate(tokenizer: RolloutTokenizer, response: str) -> tuple[list[int], list[Span]]:
    """The response's tokens and their spans."""
    encoded = tokenizer.encode(PROMPT, response)
    ids = encoded.sequences[0].response_ids if encoded.sequences else []
    return ids, locate_tokens(tokenizer, response, ids, is_cut=False)


def find_byte_spans(response: str, lengths: list[int]) -> list[Span]:
    """The characters that tokens of these many bytes touch."""
    char_of_byte = [i for i, char in enumerate(response) for _ in char.encode()]
    spans, first = [], 0
    for length in lengths:
        spans.append(Span(char_of_byte[first], char_of_byte[first + length - 1] + 1))
        first += length
    assert first == len(char_of_byte)
    return spans


@pytest.mark.parametrize("kind", KINDS)
@given(response=Texts)
def test_spans_go_forward_and_cover_the_response(
    tokenizers: Tokenizers, kind: str, response: str
) -> None:
    ids, spans = locate(tokenizers(kind), response)
    assert len(spans) == len(ids)
    for one, after in pairwise(spans):
        assert one.start <= after.start <= one.end <= after.end
    if spans:
        assert spans[0].start == 0
        assert spans[-1].end == len(response)
    for start, end in spans:
        assert 0 <= start <= end <= len(response)


@given(response=Texts)
def test_spans_of_byte_level_tokens_are_those_of_their_bytes(
    tokenizers: Tokenizers, bundled_tokenizer: Any, response: str
) -> None:
    """A token's name has a character for each of its bytes."""
    ids, spans = locate(tokenizers("byte level"), response)
    lengths = [len(name) for name in bundled_tokenizer.convert_ids_to_tokens(ids)]
    assert spans == find_byte_spans(response, lengths)


# ByT5 has special tokens of its own: what starts with "<" may be several bytes in one.
@given(response=st.text(st.characters(codec="utf-8", exclude_characters="<\ufffd"), max_size=20))
@example(response="👩‍👩‍👧‍👦 中文")
def test_spans_without_stated_offsets(tokenizers: Tokenizers, response: str) -> None:
    """Of a tokenizer written in Python, with a token for each byte."""
    ids, spans = locate(tokenizers("in python"), response)
    assert spans == find_byte_spans(response, [1] * len(ids))


@pytest.mark.parametrize(
    ("kind", "response", "expected"),
    [
        ("byte level", "😀!", ["😀", "😀", "😀", "😀", "!"]),
        ("byte level", "5<|im_end|><|endoftext|>", ["5", "<|im_end|>", "<|endoftext|>"]),
        ("byte level", "e\u0301", ["e", "\u0301", "\u0301"]),
        # One letter of two bytes, from two characters.
        ("normalizing", "e\u0301.", ["e\u0301", "e\u0301", "."]),
        ("normalizing", "\ufb01", ["\ufb01", "\ufb01"]),
        # The space before the text is the tokenizer's, and is no token of the response.
        ("sentencepiece", "the cat</s>", ["the", " cat", "</s>"]),
        ("sentencepiece", " the cat", [" the", " cat"]),
        ("sentencepiece", "the中", ["the", "中", "中", "中"]),
    ],
)
def test_known_spans(tokenizers: Tokenizers, kind: str, response: str, expected: list[str]) -> None:
    _, spans = locate(tokenizers(kind), response)
    assert [response[start:end] for start, end in spans] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_response_has_the_spans_of_its_first_tokens(
    tokenizers: Tokenizers, kind: str
) -> None:
    tokenizer, response = tokenizers(kind), "the cat 中 e\u0301 the cat."
    ids, spans = locate(tokenizer, response)
    for num_kept in range(1, len(ids)):
        cut = locate_tokens(tokenizer, response, ids[:num_kept], is_cut=True)
        assert [span.start for span in cut] == [span.start for span in spans[:num_kept]]
        # A letter's accent is in the text of a token that is cut off.
        assert all(a.end <= b.end for a, b in zip(cut, spans, strict=False))
