"""Splits a trainer's query into the prompt that the policy saw and the response that it wrote.

The trainer sends two texts. `query` is the prompt's and the response's token ids, decoded together.
`prompt` is the prompt before the trainer tokenised it. The start of the query can differ from the
prompt in three ways:
1. The trainer added a BOS token or padding.
2. The trainer cut the prompt from the left to fit a length limit.
3. The tokenizer does not round trip: it decodes the prompt's ids to a different text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from sar.errors import quote

# A shorter overlap of two texts may be chance: it does not prove that the prompt was cut.
_MIN_OVERLAP_CHARS = 4
# A query may start with thousands of special tokens. We look for the prompt at the query's start,
# and after each of the last 8 of them.
_MAX_TRIED_SPECIALS = 8
# Of a text in an error message: 60 characters and their quotation marks, if few need an escape.
_MAX_QUOTED_CHARS = 80


def split_query(
    query: str, prompt: str, *, decoded_prompt: str, special_tokens: Sequence[str]
) -> tuple[str, str]:
    """Splits a query after its prompt.

    Args:
        query: prompt and response as the trainer decoded them, special tokens kept.
        prompt: the prompt's text before the trainer tokenised it.
        decoded_prompt: `prompt`, tokenised and decoded. Some tokenizers change the text.
        special_tokens: texts of the tokenizer's special tokens.
    Returns:
        The prompt as the policy saw it, and the response.
    Raises:
        ValueError: the prompt is empty, or the query does not start with it.
    """
    if not prompt:
        raise ValueError("the prompt is empty")
    versions = [prompt] if decoded_prompt == prompt else [prompt, decoded_prompt]
    rests = _strip_leading_specials(query, special_tokens)
    for rest in rests:
        for version in versions:
            if rest.startswith(version):
                added = query[: len(query) - len(rest)]
                return _find_last_special(added, special_tokens) + prompt, rest[len(version) :]
    # Look for the whole prompt first: if its end repeats its start, it also looks like a cut one.
    for rest in rests:
        for version in versions:
            if end := _find_aligned_end(version, rest):
                return prompt, rest[end:]
    for version in versions:
        # If the trainer cut inside a character, the rest of that character decodes to U+FFFD.
        for rest in (*rests, rests[-1].lstrip("\ufffd")):
            if overlap := _measure_overlap(version, rest):
                return rest[:overlap], rest[overlap:]
    raise ValueError(
        "the query does not start with its prompt: the query starts "
        f"{quote(query[:60], _MAX_QUOTED_CHARS)}, the prompt "
        f"{quote(prompt[:60], _MAX_QUOTED_CHARS)} and ends {quote(prompt[-60:], _MAX_QUOTED_CHARS)}"
    )


def strip_padding(response: str, *, pad_token: str | None, eos_token: str | None) -> str:
    """Removes trailing padding, which trainers that decode whole batches leave on the response.

    Two cases keep one pad token, because the policy generated it to end its response:
    1. The pad token is also the end-of-sequence token.
    2. A single pad token follows a response that does not end with the end-of-sequence token.
    """
    if not pad_token or not response.endswith(pad_token):
        return response
    end = len(response)
    while response.endswith(pad_token, 0, end):
        end -= len(pad_token)
    stripped = response[:end]
    is_only_end = response == stripped + pad_token and not stripped.endswith(eos_token or pad_token)
    return stripped + pad_token if pad_token == eos_token or is_only_end else stripped


def _strip_leading_specials(text: str, special_tokens: Sequence[str]) -> list[str]:
    """The whole text, then what remains after each of its (last 8) leading special tokens.

    Each may start with the prompt, as a leading special token may be the prompt's own or one that
    the trainer added.
    """
    starts = [0]
    while special := next((s for s in special_tokens if s and text.startswith(s, starts[-1])), ""):
        starts.append(starts[-1] + len(special))
    return [text[start:] for start in (0, *starts[1:][-_MAX_TRIED_SPECIALS:])]


def _find_last_special(added: str, special_tokens: Sequence[str]) -> str:
    """The added token next to the prompt: a BOS stays, the padding before it is dropped."""
    return next((s for s in special_tokens if s and added.endswith(s)), "")


def _measure_overlap(prompt: str, query: str) -> int:
    """Length of the longest suffix of `prompt` that is a prefix of `query`; 0 if it is too short.

    Uses the prefix function of Knuth, Morris and Pratt, which takes linear time for any text.
    """
    # A list can hold None as a separator; a string would need a character that no text contains.
    joined: list[str | None] = [*query[: len(prompt)], None, *prompt]
    borders = [0] * len(joined)
    for index in range(1, len(joined)):
        border = borders[index - 1]
        while border and joined[index] != joined[border]:
            border = borders[border - 1]
        borders[index] = border + (joined[index] == joined[border])
    return borders[-1] if borders[-1] >= _MIN_OVERLAP_CHARS else 0


def _find_aligned_end(prompt: str, query: str) -> int:
    """Where the prompt ends in the query, ignoring differences in white space and Unicode form.

    0: the query does not start with the prompt.
    """
    wanted = "".join(map(_squash, prompt))
    matched = 0
    for index, char in enumerate(query):
        squashed = _squash(char)
        if not wanted.startswith(squashed, matched):
            return 0
        matched += len(squashed)
        if matched == len(wanted):
            end = index + 1
            trailing = len(prompt) - len(prompt.rstrip())
            while end - index - 1 < trailing and query[end : end + 1].isspace():
                end += 1
            return end
    return 0


def _squash(char: str) -> str:
    return "" if char.isspace() else unicodedata.normalize("NFKD", char)
