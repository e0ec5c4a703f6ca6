"""Makes the text that the server grades from a rollout's recorded response."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sar.grading.rules.answers import find_thinking_tag


def make_graded_text(response: str, *, prompt: str = "", special_tokens: Sequence[str] = ()) -> str:
    """Returns the response without special tokens, after the prompt's `<think>` tag if it ends so.

    Args:
        special_tokens: texts of the special tokens to remove from the response.
    """
    tokens = sorted(filter(None, special_tokens), key=len, reverse=True)
    visible = re.sub("|".join(map(re.escape, tokens)) or r"(?!)", "", response)
    return find_thinking_tag(prompt) + visible
