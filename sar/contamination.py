"""Finds benchmark questions in a text, by the n-grams of words that they share.

The default of 13 words is that of Brown et al., arXiv:2005.14165, appendix C. The index keeps only
the questions in memory, and none of the texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

NGRAM_WORDS = 13
_WORD = re.compile(r"\w+")

Words = tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """A question that shares words with a text."""

    question: int
    """Index of the question."""
    ngram: Words
    """The words they share: the first shared n-gram, or a whole question of fewer than n words."""
    whole: bool
    """True if the text contains the whole question."""


def normalise(text: str) -> Words:
    """The words of a text: runs of letters, digits and underscores after NFKC and case folding.

    `\\frac{1}{2}` becomes the words frac, 1, 2.
    """
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def ngrams(words: Sequence[str], n: int) -> Iterator[Words]:
    """All runs of n consecutive words, in order; none if there are fewer than n words."""
    return zip(*(words[i:] for i in range(n)), strict=False)


class ContaminationIndex:
    """Finds the questions that share words with a text.

    A question matches if the text contains any n consecutive words of it. A question of fewer than
    n words matches if the text contains all of it.
    """

    def __init__(self, questions: Iterable[str], n: int = NGRAM_WORDS) -> None:
        """
        Raises:
            ValueError: n is not positive.
        """
        if n < 1:
            raise ValueError(f"n-grams of {n} words: must be at least 1")
        self._questions = [normalise(question) for question in questions]
        # N-grams by their length: a short question is one n-gram of its own length.
        self._by_length: dict[int, dict[Words, list[int]]] = {}
        for index, words in enumerate(self._questions):
            length = min(n, len(words))
            found = self._by_length.setdefault(length, {})
            for gram in dict.fromkeys(ngrams(words, length)):
                found.setdefault(gram, []).append(index)
        self._by_length.pop(0, None)  # a question without words matches nothing

    def find_matches(self, text: str) -> list[Match]:
        """One match for each question that shares words with the text, in the questions' order."""
        words = normalise(text)
        found: dict[int, Match] = {}
        for length, index in self._by_length.items():
            for start, gram in enumerate(ngrams(words, length)):
                for question in index.get(gram, ()):
                    known = found.get(question)
                    if known is None or not known.whole:
                        expected = self._questions[question]
                        whole = words[start : start + len(expected)] == expected
                        if known is None or whole:
                            found[question] = Match(question, gram, whole)
        return [found[question] for question in sorted(found)]
