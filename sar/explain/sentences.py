"""Divides a response into sentences, and sums what the question explains of each."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sar.explain.explanation import ExplainedToken
from sar.grading.graded_text import sort_longest_first

# A full stop ends a sentence before white space only: 3.5 is a number. Those of Chinese and
# Japanese always do.
_END = r"[.!?\u2026\u061f\u06d4]+[\"'\u201d\u2019)\]]*(?=\s)|[\u3002\uff01\uff1f]+|\n(?=\s*\S)"


@dataclass
class Sentence:
    """The characters [start, end) of a response, and the sums over its tokens, in nats."""

    start: int
    end: int
    num_tokens: int = 0
    nll_qa: float = 0.0
    nll_a: float = 0.0

    @property
    def gain(self) -> float:
        """What the question explains of it."""
        return self.nll_a - self.nll_qa


def sum_sentences(
    response: str, tokens: Sequence[ExplainedToken], special_tokens: Iterable[str] = ()
) -> list[Sentence]:
    """The sentences with a token, in order. A token belongs to the sentence in which it starts.

    Args:
        special_tokens: texts that are sentences of their own, such as "<|im_end|>".
    """
    starts = _find_starts(response, special_tokens)
    ends = [*starts[1:], len(response)]
    sentences = [Sentence(*place) for place in zip(starts, ends, strict=True)]
    for token in tokens:
        sentence = sentences[bisect_right(starts, token.start) - 1]
        sentence.num_tokens += 1
        sentence.nll_qa += token.nll_qa
        sentence.nll_a += token.nll_a
    return [sentence for sentence in sentences if sentence.num_tokens]


def _find_starts(response: str, special_tokens: Iterable[str]) -> list[int]:
    starts = {0} | {found.end() for found in re.finditer(_END, response)}
    if special := "|".join(map(re.escape, sort_longest_first(special_tokens))):
        for found in re.finditer(special, response):
            starts.update(found.span())
    return sorted(start for start in starts if start < max(1, len(response)))
