"""Makes the text that is graded: a response up to its end, without special tokens.

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

from sar.grading.rules.answers import find_thinking_tag, is_grading_tag, strip_thinking

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
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|return|>",
)
"""End-of-sequence tokens of Qwen, Llama, Gemma, Phi, Mistral, DeepSeek and gpt-oss."""

_COMMON_END = re.compile("|".join(map(re.escape, COMMON_END_TOKENS)))


def make_graded_text(
    response: str,
    *,
    prompt: str = "",
    special_tokens: Iterable[str] = (),
    end_tokens: Iterable[str] = (),
) -> str:
    """Returns what graders see of a response, after a `<think>` tag if the prompt ends with one.

    Args:
        special_tokens: texts of the special tokens in the response.
        end_tokens: texts of those that end it. Empty: those of the `COMMON_END_TOKENS` that are in
            `special_tokens`.
    """
    special = tuple(special_tokens)
    ends = tuple(end_tokens) or [token for token in special if token in COMMON_END_TOKENS]
    return find_thinking_tag(prompt) + remove_special_tokens(response, special, ends)


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


def strip_to_answer(response: str) -> str:
    """Returns the part of a response that can answer: before its end, after its thinking."""
    return strip_thinking(cut_at_common_end(response))


@lru_cache(256)
def _compile(tokens: frozenset[str]) -> re.Pattern[str]:
    ungraded = sort_longest_first(token for token in tokens if not is_grading_tag(token))
    return re.compile("|".join(map(re.escape, ungraded)) or r"(?!)")


def sort_longest_first(texts: Iterable[str]) -> list[str]:
    """Sorts texts so that a pattern finds the longest of those that start alike."""
    return sorted(filter(None, texts), key=lambda text: (-len(text), text))
