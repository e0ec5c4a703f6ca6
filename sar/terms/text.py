"""Terms from the texts of the prompt and the response.

Both look at n-grams: n units in a row. All n-grams get numbers in O(T log T log n) time, for any
text, so a million characters take seconds.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
import regex
from pydantic import Field
from pydantic.dataclasses import dataclass

from sar.terms.base import OPTIONS, Sample, Term

_Ids = npt.NDArray[np.int64]
_Count = Annotated[int, Field(ge=1, le=1000)]

# Scripts without spaces between words: there, a letter is a unit.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNIT = regex.compile(rf"(?V1)[{_UNSPACED}]|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+")


@dataclass(frozen=True, config=OPTIONS)
class Copied(Term):
    """Marks a response that repeats its prompt; meant for a negative weight.

    Units are words and numbers, without regard to case; punctuation and white space do not count.
    In scripts that put no spaces between words, such as Chinese, a unit is one letter.
    The prompt is all that the policy was given: the system prompt and the chat template too.
    An answer that uses the question's names and numbers is not copied, as n of them do not stand in
    a row there. Of 400 honest GSM8K responses, 349 have no copied unit at n = 10, and the mean is
    0.03; a question repeated word by word is 1.
    """

    formula = "share of the response's units in spans of n or more that are in the prompt too"
    bounds = "0 to 1"
    source = "this project"

    n: _Count = 10
    """Units of the shortest span that counts as copied."""

    def score(self, sample: Sample) -> float:
        prompt, response = _find_units(sample.prompt), _find_units(sample.response)
        numbers: dict[str, int] = {}
        ids_T = np.array(
            [numbers.setdefault(unit, len(numbers)) for unit in prompt + response], dtype=np.int64
        )
        grams = number_ngrams(ids_T, self.n)
        # Between the two are n-grams that start in the prompt and end in the response.
        in_prompt = grams[: max(len(prompt) - self.n + 1, 0)]
        starts = np.flatnonzero(np.isin(grams[len(prompt) :], in_prompt))
        if not len(starts):
            return 0.0
        changes = np.zeros(len(response) + 1, dtype=np.int64)
        changes[starts] += 1
        changes[starts + self.n] -= 1
        return float(np.count_nonzero(np.cumsum(changes)) / len(response))


@dataclass(frozen=True, config=OPTIONS)
class Repetition(Term):
    """Marks a response that repeats itself; meant for a negative weight.

    Units are characters, so that loops of any kind count: words, symbols, one letter. Of 400 honest
    GSM8K responses, 371 repeat nothing at n = 40, and the mean is 0.004.
    """

    formula = "share of the response's n-grams of characters that occur before in the response"
    bounds = "0 to 1"
    source = "Yeo et al., arXiv:2502.03373, as in the authors' code, but over characters, not words"

    n: _Count = 40
    """Characters of the shortest repeated text."""

    def score(self, sample: Sample) -> float:
        characters = sample.response.encode("utf-32-le", "surrogatepass")
        grams = number_ngrams(np.frombuffer(characters, dtype="<u4").astype(np.int64), self.n)
        return float(1.0 - len(np.unique(grams)) / len(grams)) if len(grams) else 0.0


def number_ngrams(ids_T: _Ids, n: int) -> _Ids:
    """Numbers the n-grams of a sequence: equal n-grams, and no others, get equal numbers.

    Returns:
        (max(T - n + 1, 0),) int64, one number for each n-gram, in the order of the sequence.
    """
    if len(ids_T) < n:
        return np.zeros(0, dtype=np.int64)
    numbers, width = _rank(ids_T), 1
    while width < n:
        # Two n-grams of the same width that overlap or touch make a longer one.
        step = min(width, n - width)
        pairs = numbers[:-step] * len(ids_T) + numbers[step:]
        numbers, width = _rank(pairs), width + step
    return numbers


def _rank(values: _Ids) -> _Ids:
    """Numbers equal values equally, from 0."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _find_units(text: str) -> list[str]:
    units: list[str] = _UNIT.findall(text.casefold())
    return units
