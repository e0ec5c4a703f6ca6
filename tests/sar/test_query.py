"""Splitting queries into prompt and response. `test_tokenization.py` uses real tokenizers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sar.query import split_query, strip_padding

SPECIALS = ["<|endoftext|>", "<|im_end|>", "<s>"]
# Apart from each other, so that where a cut prompt ends is never a matter of opinion; and no prompt
# is the start of a special token's text, which could then be either.
prompts = st.text(
    st.characters(codec="utf-8", max_codepoint=0x2FFF), min_size=1, max_size=60
).filter(lambda prompt: not any(special.startswith(prompt) for special in SPECIALS))
responses = st.text(st.sampled_from("ABC\n 123\U0001f389"), max_size=40)


def split(query: str, prompt: str, decoded_prompt: str | None = None) -> tuple[str, str]:
    return split_query(
        query,
        prompt,
        decoded_prompt=prompt if decoded_prompt is None else decoded_prompt,
        special_tokens=SPECIALS,
    )


@given(prompts, responses)
def test_a_query_that_continues_its_prompt(prompt: str, response: str) -> None:
    assert split(prompt + response, prompt) == (prompt, response)


@given(prompts, responses)
def test_an_added_bos_stays_with_the_prompt(prompt: str, response: str) -> None:
    assert split("<s>" + prompt + response, prompt) == ("<s>" + prompt, response)


@given(prompts, responses, st.integers(1, 5))
def test_padding_before_a_bos_goes(prompt: str, response: str, num_pads: int) -> None:
    query = "<|endoftext|>" * num_pads + "<s>" + prompt + response
    assert split(query, prompt) == ("<s>" + prompt, response)


@given(prompts, responses)
def test_a_prompt_that_starts_with_a_special_token_keeps_it(prompt: str, response: str) -> None:
    prompt = "<s>" + prompt
    assert split(prompt + response, prompt) == (prompt, response)
    assert split("<|im_end|>" + prompt + response, prompt)[1] == response


@given(prompts, responses, st.data())
def test_a_prompt_cut_anywhere_ends_where_it_ended(
    prompt: str, response: str, data: st.DataObject
) -> None:
    prompt += "\u25b8End of prompt\u25b8"
    cut = data.draw(st.integers(0, len(prompt) - 4))
    kept = prompt[cut:]
    assume(not kept.startswith("\ufffd"))
    # Less its white space alone, a prompt is a whole one that decodes differently.
    assume(cut == 0 or prompt[:cut].strip())
    assert split(kept + response, prompt) == (kept, response)
    # The character at the cut lost its first bytes.
    assert split("\ufffd\ufffd" + kept + response, prompt) == (kept, response)


def test_the_longest_piece_of_the_prompt_is_taken() -> None:
    assert split("1 ab ab: 7", "ab 1 ab ab:") == ("1 ab ab:", " 7")


@pytest.mark.parametrize(
    ("query", "prompt", "decoded_prompt", "expected"),
    [
        # The tokenizer drops the line break after a special token, or puts a space there.
        ("<|u|> Hi<|a|> Yes", "<|u|>\nHi<|a|>\n", "<|u|> Hi<|a|>", ("<|u|>\nHi<|a|>\n", " Yes")),
        # The trainer's version does, ours does not: only white space differs.
        ("<|u|> Hi<|a|> Yes", "<|u|>\nHi<|a|>", None, ("<|u|>\nHi<|a|>", " Yes")),
        # As many white-space characters as the prompt ends with are the prompt's.
        ("Q: hi\nA: \n x", "Q:hi\nA: \n", None, ("Q:hi\nA: \n", " x")),
        # Composed and decomposed, full-width and plain.
        ("caf\u00e9 \uff12? 2", "cafe\u0301 2? ", None, ("cafe\u0301 2? ", "2")),
        ("cafe\u0301 2? 2", "caf\u00e9 \uff12?", None, ("caf\u00e9 \uff12?", " 2")),
        # With a BOS before a space that the prompt lacks.
        ("<s> Hello World 7", "Hello World", None, ("Hello World", " 7")),
        # The prompt ends as it starts; none of it may end up in the response.
        ("<s> User: hi User: 7", "User: hi User:", None, ("User: hi User:", " 7")),
        # Lossy tokenizers.
        ("hello <unk> yes", "HELLO \u6771", "hello <unk>", ("HELLO \u6771", " yes")),
    ],
)
def test_prompts_that_do_not_come_back_as_they_went(
    query: str, prompt: str, decoded_prompt: str | None, expected: Any
) -> None:
    assert split(query, prompt, decoded_prompt) == expected


@pytest.mark.parametrize(
    ("query", "prompt"),
    [
        ("something else entirely", "Question: 2+2?"),
        ("", "Question: 2+2?"),
        ("<|endoftext|>", "Question: 2+2?"),
        ("Question: 2+", "Question: 2+2?"),
        ("Question: 3+2? 5", "Question: 2+2?"),
        (" n", "Question"),
    ],
)
def test_an_unrelated_query_is_refused_with_both_texts(query: str, prompt: str) -> None:
    with pytest.raises(ValueError, match="does not start with its prompt") as caught:
        split(query, prompt)
    assert repr(query) in str(caught.value)
    assert repr(prompt) in str(caught.value)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        split("some text", "")


def test_an_error_quotes_only_the_ends_of_long_texts() -> None:
    with pytest.raises(ValueError, match="PPP") as caught:
        split("Q" * 100_000, "P" * 100_000)
    assert len(str(caught.value)) < 500


BIG = 300_000


@pytest.mark.parametrize(
    ("query", "prompt", "response"),
    [
        pytest.param("a" * BIG + "b", "a" * BIG, "b", id="plain"),
        pytest.param("<s>" + "ab" * (BIG // 2) + "!", "ab" * (BIG // 2), "!", id="bos"),
        pytest.param("a" * (BIG // 2) + "b", "c" + "a" * (BIG // 2), "b", id="cut"),
        pytest.param("ab" * BIG + "!", "b" * BIG, None, id="periodic, unrelated"),
        pytest.param("a" * BIG, "a" * BIG + "b", None, id="all but one"),
        pytest.param(" " * BIG + "x", "y" * BIG, None, id="white space"),
        pytest.param("a b " * (BIG // 4) + "!", "ab" * (BIG // 4) + " ", "!", id="aligned"),
        pytest.param("\ufffd" * BIG + "x", "\ufffd" * 5 + "y" * 9, None, id="replacements"),
        pytest.param("<s>" * 20_000 + "Hi there", "Hi", " there", id="padding"),
        pytest.param("<s>" * 20_000 + "Hi there", "Something else", None, id="padding, unrelated"),
        pytest.param("<s>" * 4000 + "x" * 9000, "y" * 9000, None, id="padding, long, unrelated"),
    ],
)
def test_adversarial_sizes_finish_in_seconds(query: str, prompt: str, response: str | None) -> None:
    start = time.monotonic()
    if response is None:
        with pytest.raises(ValueError, match="does not start with its prompt"):
            split(query, prompt)
    else:
        assert split(query, prompt)[1] == response
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("response", "pad", "eos", "expected"),
    [
        ("Yes<eos>", "<pad>", "<eos>", "Yes<eos>"),
        ("Yes<eos><pad><pad>", "<pad>", "<eos>", "Yes<eos>"),
        ("Yes<pad>", "<pad>", "<eos>", "Yes<pad>"),  # the policy's only end
        ("Yes<pad><pad>", "<pad>", "<eos>", "Yes"),
        ("Yes<eos>", "<eos>", "<eos>", "Yes<eos>"),
        ("Yes<eos><eos><eos>", "<eos>", "<eos>", "Yes<eos>"),
        ("Yes", "<eos>", "<eos>", "Yes"),
        ("<pad> Yes<pad><pad>", "<pad>", None, "<pad> Yes"),
        ("<pad><pad>", "<pad>", "<eos>", ""),
        ("", "<pad>", "<eos>", ""),
        ("Yes<pad>", None, "<eos>", "Yes<pad>"),
        ("Yes<pad>", "", "<eos>", "Yes<pad>"),
    ],
)
def test_padding_goes_and_the_responses_own_end_stays(
    response: str, pad: str | None, eos: str | None, expected: Any
) -> None:
    assert strip_padding(response, pad_token=pad, eos_token=eos) == expected


def test_much_padding_goes_quickly() -> None:
    start = time.monotonic()
    assert strip_padding("Yes" + "<pad>" * 60_000, pad_token="<pad>", eos_token=None) == "Yes"
    assert time.monotonic() - start < 60
