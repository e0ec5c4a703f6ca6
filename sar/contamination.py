"""Whether a text holds questions of a benchmark: shared n-grams of words, or a whole question.

Thirteen words as in Brown et al., arXiv:2005.14165, appendix C. Memory is bounded by the questions:
texts go past the index one at a time, and nothing of them is kept.
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
    """What a text shares with one question."""

    question: int
    """Index into the questions."""
    ngram: Words
    """The first words that they share; all of the question's, where it is shorter than n."""
    whole: bool
    """The text holds the question from its first word to its last."""


def normalise(text: str) -> Words:
    """The words of a text: compatibility characters replaced, case and all but letters, digits and
    underscores gone. `\\frac{1}{2}` is the words frac, 1, 2."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def ngrams(words: Sequence[str], n: int) -> Iterator[Words]:
    """All runs of n words, in order; none of a text with fewer."""
    return zip(*(words[i:] for i in range(n)), strict=False)


class ContaminationIndex:
    """Finds which of some questions a text shares words with.

    A question of n words or more is found by any n words in a row; a shorter one by all of its
    words in a row.
    """

    def __init__(self, questions: Iterable[str], n: int = NGRAM_WORDS) -> None:
        """
        Raises:
            ValueError: n is not positive.
        """
        if n < 1:
            raise ValueError(f"n-grams of {n} words: must be at least 1")
        self._questions = [normalise(question) for question in questions]
        # By length, as a short question is looked for with n-grams of its own length.
        self._by_length: dict[int, dict[Words, list[int]]] = {}
        for index, words in enumerate(self._questions):
            length = min(n, len(words))
            found = self._by_length.setdefault(length, {})
            for gram in dict.fromkeys(ngrams(words, length)):
                found.setdefault(gram, []).append(index)
        self._by_length.pop(0, None)  # questions without a word are in no text

    def find_matches(self, text: str) -> list[Match]:
        """One match per question that the text shares words with, in the questions' order."""
        words = normalise(text)
        found: dict[int, Match] = {}
        for length, index in self._by_length.items():
            for start, gram in enumerate(ngrams(words, length)):
                for question in index.get(gram, ()):
                    known = found.get(question)
                    if known is None or not known.whole:
                        whole = self._is_at(question, words, start)
                        if known is None or whole:
                            found[question] = Match(question, gram, whole)
        return [found[question] for question in sorted(found)]

    def _is_at(self, question: int, words: Words, start: int) -> bool:
        """Whether the question's words stand at `start`."""
        wanted = self._questions[question]
        return words[start : start + len(wanted)] == wanted
