"""The model that the tests of this folder run on is the one that they think it is."""

from __future__ import annotations

from pathlib import Path


def test_the_tokenizer_ends_a_turn_as_the_hubs_does(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert len(tokenizer) == 49_152
    # Another conversion would lose spaces before punctuation.
    text = "It is 5 , no ! \n\n naïve — ½ <think>\t</think>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
