"""The bundled model, and tokenizers of other kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from sar.explain.model import ModelExplainer
from sar.models import BUNDLED_MODEL
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.tokenization import RolloutTokenizer


@pytest.fixture(scope="session")
def explainer() -> ModelExplainer:
    """The bundled model."""
    return ModelExplainer.from_pretrained(str(BUNDLED_MODEL), system_prompt=DEFAULT_SYSTEM_PROMPT)


def _sentencepiece() -> Any:
    """As Llama 2: a space before the text, and bytes for what is not in the vocabulary."""
    words = ["▁", "▁the", "▁cat", "c", "a", "t", "h", "e", "th", "the", "ca", "cat"]
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t"), ("▁", "the"), ("▁", "cat")]
    vocabulary = {name: index for index, name in enumerate(names)}
    bpe = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def _normalizing() -> Any:
    """Bytes of a text that is normalised first, so that accents join their letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.fixture(scope="session")
def tokenizers(bundled_tokenizer: Any) -> Callable[[str], RolloutTokenizer]:
    """Tokenizers by kind; "in python" states no offsets."""
    built = {
        "byte level": RolloutTokenizer(bundled_tokenizer, system_prompt=""),
        "sentencepiece": RolloutTokenizer(_sentencepiece(), system_prompt=""),
        "normalizing": RolloutTokenizer(_normalizing(), system_prompt=""),
        "in python": RolloutTokenizer(ByT5Tokenizer(), system_prompt=""),
    }
    return built.__getitem__
