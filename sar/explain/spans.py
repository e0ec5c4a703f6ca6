"""Finds which characters of a response each of its tokens stands for.

A character that is split over several tokens belongs to each of them whole. So spans may overlap,
but neither their starts nor their ends ever go back. Together they cover the response, without what
was cut to fit the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sar.tokenization import RolloutTokenizer

# A character has at most four bytes, and a token at least one. More tokens that decode to no
# character are no part of one.
_MAX_TOKENS_OF_CHARACTER = 8
# How far a tokenizer may skip text that it does not keep, such as a second space.
_MAX_SKIPPED_CHARS = 16
_REPLACEMENT = "\ufffd"
_REPLACEMENT_BYTES = 3


class Span(NamedTuple):
    """The characters [start, end) of a response."""

    start: int
    end: int


def locate_tokens(
    tokenizer: RolloutTokenizer, response: str, response_ids: Sequence[int], *, is_cut: bool
) -> list[Span]:
    """The characters of the response that each token stands for.

    Args:
        response_ids: the tokens of the response, as `RolloutTokenizer.encode` found them.
        is_cut: these are only the first ones.
    """
    spans = _read_offsets(tokenizer, response, response_ids)
    if spans is None:
        spans = list(_decode_in_steps(tokenizer.decode, response, response_ids))
    spans = _close_gaps(spans, response)
    if spans and not is_cut:
        _extend_last(spans, spans[-1].end, len(response))
    return spans


def _read_offsets(
    tokenizer: RolloutTokenizer, response: str, response_ids: Sequence[int]
) -> list[Span] | None:
    """The spans that the tokenizer itself states.

    None: it states none, or has encoded the response to other tokens.
    """
    # The three ways in which `RolloutTokenizer.encode` encodes a response: as it is, without the
    # space that the tokenizer adds itself, and after a line break.
    for text, first_char in ((response, 0), (response[1:], 1), ("\n" + response, -1)):
        encoded = tokenizer.encode_with_offsets(text)
        if encoded is None:
            return None
        ids, offsets = encoded
        num_before = len(tokenizer.encode_text("\n")) if first_char < 0 else 0
        place = slice(num_before, num_before + len(response_ids))
        if ids[place] == list(response_ids):
            return [
                Span(max(0, start + first_char), max(0, end + first_char))
                for start, end in offsets[place]
            ]
    return None


def _decode_in_steps(
    decode: Callable[[Sequence[int]], str], response: str, response_ids: Sequence[int]
) -> Iterator[Span]:
    """The spans by what each token adds to the decoded text.

    Tokens that add a character together get the span of all that they add.
    """
    position = first = 0
    context: list[int] = []
    context_text = ""
    for number in range(1, len(response_ids) + 1):
        several = list(response_ids[first:number])
        added = decode([*context, *several]).removeprefix(context_text)
        # A part of a character decodes to nothing or to the replacement character, which the
        # response may hold itself.
        is_whole = bool(added) and (
            not added.endswith(_REPLACEMENT)
            or (len(several) >= _REPLACEMENT_BYTES and response.startswith(added, position))
        )
        is_last = number == len(response_ids)
        if not (is_whole or is_last) and len(several) < _MAX_TOKENS_OF_CHARACTER:
            continue
        start, position = position, _find_end(response, position, added)
        yield from [Span(start, position)] * len(several)
        # Whole characters before the next ones: some tokenizers decode a sequence's first token, or
        # bytes in a row, differently.
        context, first = several, number
        context_text = decode(context)


def _find_end(response: str, position: int, added: str) -> int:
    """Where the text that starts about here ends; here if the response has no such text."""
    kept = added.strip() or added
    until = position + len(kept) + _MAX_SKIPPED_CHARS
    if response.startswith(added, position):
        return position + len(added)
    found = response.find(kept, position, until)
    return position if found < 0 else found + len(kept)


def _close_gaps(spans: Sequence[Span], response: str) -> list[Span]:
    """Gives characters between two tokens to one of them: white space to the token after it,
    anything else, such as an accent that was joined with its letter, to the token before it."""
    closed: list[Span] = []
    covered = 0
    for span in spans:
        start, end = min(span.start, len(response)), min(span.end, len(response))
        if start > covered:
            gap_start, start = covered, covered
            while closed and start < span.start and not response[start].isspace():
                start += 1
            if start > gap_start:
                _extend_last(closed, gap_start, start)
        covered = max(covered, end)
        closed.append(Span(max(start, closed[-1].start if closed else 0), covered))
    return closed


def _extend_last(spans: list[Span], end: int, new_end: int) -> None:
    """Moves the end of the last span, which ends here, and of those that share its character."""
    last = spans[-1].start
    for index in range(len(spans) - 1, -1, -1):
        if spans[index].end != end or spans[index].start not in (last, end):
            return
        spans[index] = Span(spans[index].start, new_end)
