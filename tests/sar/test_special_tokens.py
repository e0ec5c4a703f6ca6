"""What of a response its graders see: up to its end, and without joints where a token was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sar.decision import Decision
from sar.grading.grade import grade
from sar.grading.graded_text import (
    COMMON_END_TOKENS,
    cut_at_common_end,
    remove_special_tokens,
)
from sar.grading.label import parse_label
from sar.special_tokens import list_end_tokens, read_eos_token_ids
from sar.tokenization import RolloutTokenizer

SPECIAL = ("<|x|>", "<|x|>y", "<s>", "<think>", "<|im_start|>")
ENDS = ("<|im_end|>", "<eos>")
TOKENS = [t for t in (*SPECIAL, *ENDS) if t != "<think>"]
# No text may spell a part of a token.
TEXTS = st.text("0123456789 \nab.,{}\\\\")


def clean(text: str) -> str:
    return remove_special_tokens(text, SPECIAL, ENDS)


@given(before=TEXTS, token=st.sampled_from(TOKENS), after=TEXTS)
def test_a_special_token_never_joins_two_texts(before: str, token: str, after: str) -> None:
    seen = clean(before + token + after)
    if token in ENDS or not after:
        assert seen == before
    else:
        assert seen == (f"{before}\n{after}" if before else after)


@given(parts=st.lists(TEXTS | st.sampled_from(TOKENS)))
def test_nothing_after_the_first_end_token_is_graded(parts: list[str]) -> None:
    end = next((i for i, part in enumerate(parts) if part in ENDS), len(parts))
    seen = clean("".join(parts))
    assert seen == clean("".join(parts[:end]))
    assert not any(token in seen for token in TOKENS)


def test_tags_that_graders_read_stay() -> None:
    assert clean("<think>5</think>6") == "<think>5</think>6"


# An end token at each place of a response, from its first character on.
@pytest.mark.parametrize("place", range(len("The answer is 73.")))
def test_the_real_tokenizer_cuts_at_its_end_token(bundled_tokenizer: Any, place: int) -> None:
    text = "The answer is 73."
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")
    prompt = "Q: How many?\nA: "
    for token, expected in (
        ("<|im_end|>", text[:place]),
        ("<|im_start|>", f"{text[:place]}\n{text[place:]}" if place else text),
    ):
        query = prompt + text[:place] + token + text[place:]
        seen_prompt, response = tokenizer.split(query, prompt)
        assert response == query.removeprefix(prompt)  # what is scored stays whole
        assert tokenizer.make_graded_text(seen_prompt, response) == expected


@pytest.mark.parametrize("label", ["73", "3", "7 3"])
@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_digits_on_both_sides_of_a_token_are_no_number(
    bundled_tokenizer: Any, token: str, label: str
) -> None:
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")
    text = tokenizer.make_graded_text("Q?", f"The answer is 7{token}3")
    assert grade(text, parse_label(label)).correctness == 0


def test_1_token_000_is_not_a_thousand(bundled_tokenizer: Any) -> None:
    tokenizer = RolloutTokenizer(bundled_tokenizer, system_prompt="")
    text = tokenizer.make_graded_text("Q?", "Answer: 1<|im_start|>000")
    assert grade(text, parse_label("1000")).correctness == 0
    assert grade(text, parse_label("1,000")).correctness == 0


def test_which_tokens_end_a_response(bundled_tokenizer: Any, tmp_path: Path) -> None:
    # <|endoftext|> is the padding of this tokenizer, as of Qwen's chat models. Only their
    # generation_config says that it ends a response too.
    assert list_end_tokens(bundled_tokenizer) == ["<|im_end|>"]
    assert list_end_tokens(bundled_tokenizer, [0, 2]) == ["<|endoftext|>", "<|im_end|>"]
    assert list_end_tokens(bundled_tokenizer, [100]) == ["<|im_end|>"]  # no special token
    assert read_eos_token_ids(str(tmp_path)) == []
    for stated, ids in ((None, []), (2, [2]), ([0, 2], [0, 2])):
        config = tmp_path / "generation_config.json"
        config.write_text(json.dumps({"eos_token_id": stated}))
        assert read_eos_token_ids(str(tmp_path)) == ids


@pytest.mark.parametrize("token", COMMON_END_TOKENS)
def test_an_end_token_in_plain_text_ends_the_response(token: str) -> None:
    label = parse_label("42")
    assert cut_at_common_end(f"42{token}{token} 43") == "42"
    assert grade(f"Answer: 42{token}", label).correctness == 1
    assert grade(f"Answer: 42{token}\nAnswer: 43", label).correctness == 1
    assert grade(f"Answer: 4{token}2", label).correctness == 0
    assert grade(f"Answer: 41{token}\nAnswer: 42", label).correctness == 0
    # A thinking block that the end leaves open has no answer.
    assert grade(f"<think>so 42{token}</think>42", label).correctness == 0
    assert grade(f"<think>so 43</think>42{token}", label).correctness == 1


def test_the_reward_log_tells_the_graded_text(decision: Any) -> None:
    logged: Decision = decision(
        "5<|pad|>6<|end|>7", special_tokens=("<|pad|>", "<|end|>"), end_tokens=("<|end|>",)
    )
    assert Decision.from_json(logged.to_json()).graded_text == "5\n6"


def test_a_generation_config_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    assert read_eos_token_ids(str(tmp_path)) == []
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1,')
    with pytest.raises(OSError, match="generation_config"):
        read_eos_token_ids(str(tmp_path))
