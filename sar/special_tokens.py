"""Lists a tokenizer's special tokens, and those that end a response."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sar.grading.graded_text import COMMON_END_TOKENS, sort_longest_first


def list_special_tokens(tokenizer: Any) -> list[str]:
    """Texts of all special tokens of a transformers tokenizer, longest first."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {t.content for t in added if t.special} | set(tokenizer.all_special_tokens)
    return sort_longest_first(texts)


def list_end_tokens(tokenizer: Any, eos_token_ids: Iterable[int] = ()) -> list[str]:
    """Texts of the special tokens that end a response, longest first.

    They are the tokenizer's EOS token, those of `eos_token_ids` and, of the `COMMON_END_TOKENS`,
    those that are special tokens of this tokenizer but not its padding: a tokenizer names one EOS
    token, and a chat model ends its turn with another.

    Args:
        tokenizer: a transformers tokenizer.
        eos_token_ids: `eos_token_id` of the checkpoint's generation_config.
    """
    texts = {str(tokenizer.convert_ids_to_tokens(id_)) for id_ in eos_token_ids}
    texts |= set(COMMON_END_TOKENS) - {tokenizer.pad_token}
    texts &= set(list_special_tokens(tokenizer))
    return sort_longest_first(texts | {tokenizer.eos_token or ""})


def read_eos_token_ids(path_or_id: str) -> list[int]:
    """Returns the `eos_token_id` of a checkpoint's generation_config; empty if it has none.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    from transformers import GenerationConfig

    try:
        stated = GenerationConfig.from_pretrained(path_or_id).eos_token_id
    except OSError:
        if (Path(path_or_id) / "generation_config.json").exists():
            raise
        return []  # many checkpoints have no such file
    return [
        int(id_) for id_ in (stated if isinstance(stated, list) else [stated]) if id_ is not None
    ]
