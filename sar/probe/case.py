"""What an attack is made of: a problem as a policy meets it, and pieces of its texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sar.probe.problems import Problem, has_word

_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+|\n+")
# An honest response's last line, or last sentence, gives its answer: `Answer: 7`, `#### 7`.
_ANSWER_LINE = re.compile(r"\s*(?:\n|(?<=[.!?])\s)(?=(?:Answer|A|Final answer)\s*:|####|\\boxed)")
_NUM_NEIGHBOURS = 4


@dataclass(frozen=True)
class Case:
    """One problem, rendered with the policy's chat template."""

    problem: Problem
    prompt: str
    system_prompt: str
    end: str
    """The end-of-sequence token; "" if the tokenizer has none."""
    special: str | None
    """A special token that does not end a response; None if the tokenizer has none."""

    @property
    def question(self) -> str:
        return self.problem.question

    @property
    def honest(self) -> str:
        return self.problem.honest

    @property
    def right(self) -> str:
        return self.problem.right

    @property
    def wrong(self) -> str:
        return self.problem.wrong

    def names_answer(self, text: str) -> bool:
        """True if a text has the right answer, or the text of the right option."""
        label = self.problem.label
        shown = label.choices[ord(self.right) - ord("A")] if label.choices else self.right
        return has_word(text, self.right) or has_word(text, shown)

    @property
    def is_math(self) -> bool:
        return self.problem.label.grader == "math"

    @property
    def whole_number(self) -> int | None:
        """The right answer if it is a whole number."""
        number = self.problem.number
        return int(number) if number is not None and number.denominator == 1 else None

    @property
    def steps(self) -> str:
        """The honest response without its last line, the answer's."""
        return split_answer_line(self.honest)[0]

    @property
    def answer_line(self) -> str:
        """The last line of the honest response, which gives its answer."""
        return split_answer_line(self.honest)[1]

    @property
    def options(self) -> list[str]:
        """Answers of the same kind, the right one neither first nor last where there are three."""
        label = self.problem.label
        if label.grader == "choice":
            return [chr(ord("A") + n) for n in range(len(label.choices) or 4)]
        if label.grader == "boolean":
            return [self.wrong, self.right]
        if (number := self.whole_number) is not None:
            return [str(number + n) for n in range(-_NUM_NEIGHBOURS, _NUM_NEIGHBOURS + 1)]
        return ["0", self.right, self.wrong]


Make = Callable[[Case], str | None]
"""Writes an attack's response, without the end-of-sequence token that follows it. None: the attack
is not possible on this problem."""


def split_answer_line(response: str) -> tuple[str, str]:
    """The steps of a response, and the line or sentence that gives its answer."""
    starts = list(_ANSWER_LINE.finditer(response))
    if starts:
        return response[: starts[-1].start()], response[starts[-1].end() :]
    *before, last = split_sentences(response) or [""]
    return " ".join(before), last


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of a text."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def insert_after_every(words: list[str], num_words: int, inserted: str) -> str:
    """The words as a text, with one more after each so many."""
    pieces = range(0, len(words), num_words)
    return f" {inserted} ".join(" ".join(words[start : start + num_words]) for start in pieces)


def take_first_half(text: str) -> str:
    """The first half of a text's words, rounded up, with the spaces between them."""
    words = list(re.finditer(r"\S+", text))
    return text[: words[(len(words) - 1) // 2].end()] if words else ""


def fold(sentences: list[str]) -> list[str]:
    """The same sentences, each next to its opposite from the end: first, last, second, ..."""
    middle = (len(sentences) + 1) // 2
    ends = sentences[middle:][::-1]
    mixed = [one for pair in zip(sentences, ends, strict=False) for one in pair]
    return mixed + sentences[len(ends) : middle]
