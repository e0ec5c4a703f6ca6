"""The two contexts of a response: how they are cut to fit, and the empty-question prompt."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sar.prompts import DEFAULT_SYSTEM_PROMPT, empty_question_prompt, render_prompt
from sar.query import strip_padding
from sar.tokenization import RolloutTokenizer


def word_level(vocabulary: dict[str, int], **specials: str) -> PreTrainedTokenizerFast:
    """A token for each word."""
    unknown = specials.get("unk_token", "a")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def rollout_tokenizer(
    tokenizer: Any, *, standalone_prompt: str = "Q:", **settings: Any
) -> RolloutTokenizer:
    return RolloutTokenizer(
        tokenizer, system_prompt="", standalone_prompt=standalone_prompt, **settings
    )


def test_a_prompt_of_no_token_is_the_standalone_prompt() -> None:
    # Nothing but white space after nothing: this tokenizer has no token for it.
    rollouts = rollout_tokenizer(
        word_level({"a": 0, "<unk>": 1}, unk_token="<unk>"), standalone_prompt="a"
    )
    assert rollouts.encode("\n", "a a").sequences[0].context_ids == [0]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 9), st.integers(20, 70))
@example(30, 60, 3, 40)
@example(10, 60, 3, 40)
@example(60, 5, 3, 40)
@example(5, 35, 3, 40)
def test_what_is_cut_to_fit_the_context(
    bundled_tokenizer: Any, num_prompt: int, num_response: int, num_standalone: int, limit: int
) -> None:
    # One token each: line breaks do not merge with what follows, and digits stay alone.
    texts = ["1" * num_prompt, "2" * num_response, "3" * num_standalone]
    prompt_ids, response_ids, standalone_ids = (ids_of(bundled_tokenizer, text) for text in texts)
    num_prompt, num_response, num_standalone = map(len, (prompt_ids, response_ids, standalone_ids))
    assert num_standalone < limit // 2
    rollouts = rollout_tokenizer(
        bundled_tokenizer, standalone_prompt=texts[2], max_context_tokens=limit
    )
    encoded = rollouts.encode(texts[0], texts[1])
    context, kept = encoded.sequences[0].context_ids, encoded.sequences[0].response_ids

    assert encoded.sequences[1].response_ids == kept
    assert encoded.sequences[1].context_ids == standalone_ids
    assert len(encoded.sequences[0]) <= limit
    assert len(encoded.sequences[1]) <= limit
    assert encoded.num_response_tokens == num_response
    assert kept == response_ids[: len(kept)] != []
    assert context == prompt_ids[-len(context) :] != []
    assert encoded.over_context == (len(kept) < num_response or len(context) < num_prompt)

    widest = max(num_prompt, num_standalone)
    if widest + num_response <= limit:
        assert not encoded.over_context
    elif num_prompt <= limit // 2:
        assert len(context) == num_prompt
        assert len(kept) == min(num_response, limit - widest)
    else:
        assert len(kept) == min(num_response, limit // 2)
        assert len(context) == min(num_prompt, limit - len(kept))


def test_without_a_limit_nothing_is_cut(bundled_tokenizer: Any) -> None:
    encoded = rollout_tokenizer(bundled_tokenizer).encode("1" * 5000, "2" * 5000)
    assert not encoded.over_context
    assert len(encoded.sequences[0]) == 10_000


def test_the_standalone_prompt_is_the_template_with_an_empty_question(
    bundled_tokenizer: Any,
) -> None:
    rollouts = RolloutTokenizer(bundled_tokenizer, system_prompt="Be brief.")
    context_ids = rollouts.encode("Q", "A").sequences[1].context_ids
    assert bundled_tokenizer.decode(context_ids) == (
        empty_question_prompt(bundled_tokenizer, "Be brief.")
    )
    assert context_ids[0] == bundled_tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_a_bos_as_standalone_prompt(bundled_tokenizer: Any) -> None:
    def context_ids(tokenizer: Any) -> list[int]:
        rollouts = rollout_tokenizer(tokenizer, standalone_prompt="bos")
        return rollouts.encode("Q", "A").sequences[1].context_ids

    with_bos = word_level({"a": 0, "<s>": 1, "</s>": 2}, bos_token="<s>", eos_token="</s>")
    assert context_ids(with_bos) == [1]
    assert bundled_tokenizer.bos_token_id is None
    assert context_ids(bundled_tokenizer) == [bundled_tokenizer.eos_token_id]


def test_a_bos_of_id_0_is_a_bos() -> None:
    tokenizer = word_level({"<s>": 0, "a": 1, "</s>": 2}, bos_token="<s>", eos_token="</s>")
    rollouts = rollout_tokenizer(tokenizer, standalone_prompt="bos")
    assert rollouts.encode("a", "a").sequences[1].context_ids == [0]


def test_a_text_as_standalone_prompt(bundled_tokenizer: Any) -> None:
    rollouts = rollout_tokenizer(bundled_tokenizer, standalone_prompt="Answer: ")
    context_ids = rollouts.encode("Q", "A").sequences[1].context_ids
    assert bundled_tokenizer.decode(context_ids) == "Answer: "


def test_a_standalone_prompt_without_a_token_is_refused(bundled_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="'' has no token"):
        rollout_tokenizer(bundled_tokenizer, standalone_prompt="")
    with pytest.raises(ValueError, match="'bos' has no token"):
        rollout_tokenizer(word_level({"a": 0}), standalone_prompt="bos")


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_a_standalone_prompt_that_fills_the_context_is_refused(
    bundled_tokenizer: Any, limit: int
) -> None:
    with pytest.raises(ValueError, match=f"context of {limit}"):
        RolloutTokenizer(
            bundled_tokenizer, system_prompt=DEFAULT_SYSTEM_PROMPT, max_context_tokens=limit
        )


def test_another_frame_than_that_of_ppl_a_is_seen(bundled_tokenizer: Any) -> None:
    rollouts = RolloutTokenizer(bundled_tokenizer, system_prompt="Be brief.")
    prompt = render_prompt(bundled_tokenizer, "2+2?", "Be brief.")
    assert not rollouts.has_other_frame(prompt)
    assert not rollouts.has_other_frame(bundled_tokenizer.pad_token * 3 + prompt)
    assert rollouts.has_other_frame(render_prompt(bundled_tokenizer, "2+2?", "Be verbose."))
    assert rollouts.has_other_frame(render_prompt(bundled_tokenizer, "2+2?", ""))
    assert rollouts.has_other_frame(prompt[5:])
    without = RolloutTokenizer(bundled_tokenizer, system_prompt="")
    assert not without.has_other_frame(render_prompt(bundled_tokenizer, "2+2?", ""))
    assert without.has_other_frame(render_prompt(bundled_tokenizer, "2+2?", "Be verbose."))
    assert without.has_other_frame(prompt)
    for standalone in ("bos", "Answer:"):
        other = rollout_tokenizer(bundled_tokenizer, standalone_prompt=standalone)
        assert not other.has_other_frame("anything")


def test_padding_takes_time_that_grows_with_its_length(bundled_tokenizer: Any) -> None:
    """An emoji makes each copy of a text four times as large."""
    rollouts = RolloutTokenizer(bundled_tokenizer, system_prompt="Be brief.")
    pad = bundled_tokenizer.pad_token

    def measure(num_pads: int) -> float:
        padding = pad * num_pads
        started = time.perf_counter()
        rollouts.has_other_frame(padding + "\U0001f600")
        strip_padding("\U0001f600" + padding, pad_token=pad, eos_token="<|im_end|>")
        return time.perf_counter() - started

    measure(100)
    # The square of 100 would be 10,000. A second is allowed for what the machine does besides.
    assert measure(70_000) < 1000 * measure(700) + 1
