"""What of a response its graders see: the text up to its end, without special tokens.

Two rules:
1. A response ends at its first end-of-sequence token. What follows is not graded.
2. Another special token between two texts becomes a line break. Without it, `7<|x|>3` would read
   73; with a space, `1<|x|>000` would read 1 000.

Scorers see the whole response, special tokens included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sar.grading.rules.answers import find_thinking_tag, is_grading_tag

COMMON_END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<eos>",
    "</s>",
)
"""End-of-sequence tokens of Qwen, Llama, Gemma, Phi and Mistral."""

_COMMON_END = re.compile("|".join(map(re.escape, COMMON_END_TOKENS)))


def list_special_tokens(tokenizer: Any) -> list[str]:
    """Texts of all special tokens of a transformers tokenizer, longest first."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {t.content for t in added if t.special} | set(tokenizer.all_special_tokens)
    return _longest_first(texts)


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
    return _longest_first(texts | {tokenizer.eos_token or ""})


def read_eos_token_ids(path_or_id: str) -> list[int]:
    """Returns the `eos_token_id` of a checkpoint's generation_config; empty if it has none."""
    from transformers import GenerationConfig

    try:
        stated = GenerationConfig.from_pretrained(path_or_id).eos_token_id
    except (OSError, ValueError):  # many checkpoints have no such file
        return []
    return [
        int(id_) for id_ in (stated if isinstance(stated, list) else [stated]) if id_ is not None
    ]


def make_graded_text(
    prompt: str, response: str, special_tokens: Iterable[str], end_tokens: Iterable[str]
) -> str:
    """Returns the text to grade: the response that graders see, after a `<think>` tag if the prompt
    ends with one."""
    return find_thinking_tag(prompt) + remove_special_tokens(response, special_tokens, end_tokens)


def remove_special_tokens(
    text: str, special_tokens: Iterable[str], end_tokens: Iterable[str]
) -> str:
    """Cuts a text at its first end token, and replaces other special tokens by a line break.

    Tags that graders read, such as `<think>`, stay.
    """
    ends = frozenset(end_tokens)
    parts, start = [], 0
    for token in _compile(frozenset(special_tokens) | ends).finditer(text):
        parts.append(text[start : token.start()])
        start = token.end()
        if token[0] in ends:
            break
    else:
        parts.append(text[start:])
    return "\n".join(filter(None, parts))


def find_special_tokens(
    text: str, special_tokens: Iterable[str], end_tokens: Iterable[str]
) -> tuple[str, ...]:
    """The special tokens in a text that graders do not read, each once."""
    found = _compile(frozenset(special_tokens) | frozenset(end_tokens)).findall(text)
    return tuple(dict.fromkeys(found))


def cut_at_common_end(text: str) -> str:
    """Cuts a text at the first end token that it spells: `42<|im_end|>` is 42.

    A policy whose tokenizer lacks the token writes it in ordinary tokens, and an endpoint may leave
    it in its text.
    """
    end = _COMMON_END.search(text)
    return text[: end.start()] if end else text


@lru_cache(256)
def _compile(tokens: frozenset[str]) -> re.Pattern[str]:
    ungraded = _longest_first(token for token in tokens if not is_grading_tag(token))
    return re.compile("|".join(map(re.escape, ungraded)) or r"(?!)")


def _longest_first(texts: Iterable[str]) -> list[str]:
    """Sorts texts so that a pattern finds the longest of those that start alike."""
    return sorted(filter(None, texts), key=lambda text: (-len(text), text))
