"""A rollout, and how its prompt and response are told apart in a query.

A trainer sends `query`, the decoded token ids of prompt and response in one text, and `prompt`, the
text before it was tokenised. The two can disagree at the start: a BOS or padding was added, the
prompt was cut from the left to fit, or the tokenizer does not give back the text it was given.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Below this many characters, a common stretch of two texts is chance and not a cut prompt.
_MIN_OVERLAP_CHARS = 4
_MAX_OWN_SPECIALS = 8


def split_query(
    query: str, prompt: str, *, decoded_prompt: str, special_tokens: Sequence[str]
) -> tuple[str, str]:
    """The prompt as the policy saw it, and the response.

    Args:
        query: prompt and response as the trainer decoded them, special tokens kept.
        prompt: the prompt's text before the trainer tokenised it.
        decoded_prompt: `prompt`, tokenised and decoded; differs from it for some tokenizers.
        special_tokens: texts of the tokenizer's special tokens.
    Raises:
        ValueError: the query does not continue the prompt.
    """
    if not prompt:
        raise ValueError("the prompt is empty")
    versions = [prompt] if decoded_prompt == prompt else [prompt, decoded_prompt]
    rests = _without_leading_specials(query, special_tokens)
    for rest in rests:
        for version in versions:
            if rest.startswith(version):
                added = query[: len(query) - len(rest)]
                return _last_special(added, special_tokens) + prompt, rest[len(version) :]
    # Before looking for a cut prompt: a whole one may end as it starts.
    for rest in rests:
        for version in versions:
            if end := _aligned_end(version, rest):
                return prompt, rest[end:]
    for version in versions:
        # A cut inside a character decodes to U+FFFD.
        for rest in (*rests, rests[-1].lstrip("\ufffd")):
            if overlap := _overlap(version, rest):
                return rest[:overlap], rest[overlap:]
    raise ValueError(
        f"the query does not start with its prompt: the query starts {query[:60]!r}, "
        f"the prompt {prompt[:60]!r} and ends {prompt[-60:]!r}"
    )


def strip_padding(response: str, *, pad_token: str | None, eos_token: str | None) -> str:
    """The response without trailing padding, which trainers that decode whole batches leave on.

    Where padding is the end-of-sequence token itself, one of them is the response's own. So is a
    single one after a response that has no other end: the policy stopped on it.
    """
    if not pad_token or not response.endswith(pad_token):
        return response
    stripped = response
    while stripped.endswith(pad_token):
        stripped = stripped[: -len(pad_token)]
    is_only_end = response == stripped + pad_token and not stripped.endswith(eos_token or pad_token)
    return stripped + pad_token if pad_token == eos_token or is_only_end else stripped


def _without_leading_specials(text: str, special_tokens: Sequence[str]) -> list[str]:
    """The text, and the text less its leading special tokens, up to the prompt's own first few."""
    starts = [0]
    while special := next((s for s in special_tokens if s and text.startswith(s, starts[-1])), ""):
        starts.append(starts[-1] + len(special))
    return [text[start:] for start in (0, *starts[1:][-_MAX_OWN_SPECIALS:])]


def _last_special(added: str, special_tokens: Sequence[str]) -> str:
    """Of what was added before the prompt, the token next to it: a BOS stays, padding goes."""
    return next((s for s in special_tokens if s and added.endswith(s)), "")


def _overlap(prompt: str, query: str) -> int:
    """Length of the longest end of `prompt` that `query` starts with; 0 if it is too short.

    The prefix function of Knuth, Morris and Pratt: linear, also in adversarial text.
    """
    # Compared as lists, so that no separator has to be a character that texts cannot hold.
    joined: list[str | None] = [*query[: len(prompt)], None, *prompt]
    borders = [0] * len(joined)
    for index in range(1, len(joined)):
        border = borders[index - 1]
        while border and joined[index] != joined[border]:
            border = borders[border - 1]
        borders[index] = border + (joined[index] == joined[border])
    return borders[-1] if borders[-1] >= _MIN_OVERLAP_CHARS else 0


def _aligned_end(prompt: str, query: str) -> int:
    """Where the prompt ends in the query if white space and Unicode forms may differ; else 0."""
    wanted = "".join(map(_squashed, prompt))
    matched = 0
    for index, char in enumerate(query):
        squashed = _squashed(char)
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


def _squashed(char: str) -> str:
    return "" if char.isspace() else unicodedata.normalize("NFKD", char)
