"""The problems that are attacked: those of the bundled generator, or the user's own.

Each comes with an honest right response, which the attacks are compared with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from sar.errors import quote
from sar.grading.label import Label, LabelError, parse_label
from sar.grading.verdict import Reason, Verdict
from sar.models.problems import generate
from sar.prompts import INSTRUCTION

_SEED = 2026
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
# A wrong answer to what is no number, no option and no truth value.
_NO_ANSWER_OF_ANY = "1729"
_FIELDS = ("question", "label", "response")

Grade = Callable[[str, Label], Verdict]
"""Grades a response."""


class ProblemError(ValueError):
    """The user's problems cannot be used. The message is one line that names the line and value."""


@dataclass(frozen=True)
class Problem:
    """A question with its label, an honest right response, and an honest wrong one."""

    question: str
    """What an attack copies."""
    user_turn: str
    """What the prompt holds: the question, perhaps with an instruction."""
    label_as_sent: str | dict[str, Any]
    label: Label
    honest: str
    """A right response, without an end-of-sequence token."""
    right: str
    """The right answer, as the honest response states it."""
    wrong: str
    """A wrong answer of the same kind."""
    attempt: str | None
    """An honest response with a wrong result; None if there is none."""
    other: str | None = None
    """The honest response to another problem; None if there is none."""

    @property
    def number(self) -> Fraction | None:
        """The right answer as a number; None if it is no plain number."""
        return read_number(self.right) if self.label.grader == "math" else None

    @property
    def shows_answer(self) -> bool:
        """True if the question names the right answer: a copy may then be right by chance. The
        options of a choice are no such names."""
        if self.label.grader == "choice":
            return False
        if self.number is None:
            return has_word(self.question, self.right)
        return any(read_number(found) == self.number for found in _NUMBER.findall(self.question))


def has_word(text: str, word: str) -> bool:
    """True if a text has this word or number by itself."""
    return re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def read_number(text: str) -> Fraction | None:
    """The value of a text that is one plain number, such as "1,200" or "$2.5$"."""
    stripped = text.strip().strip("$").replace(",", "").removesuffix(".")
    return Fraction(stripped) if re.fullmatch(r"-?\d+(?:\.\d+)?", stripped) else None


def list_bundled(num_problems: int) -> list[Problem]:
    """Held-out word problems of the bundled model. The answer is no number of the question."""
    problems: Iterator[Problem] = (
        Problem(
            question=one.question,
            user_turn=f"{one.question} {INSTRUCTION}",
            label_as_sent=str(one.answer),
            label=parse_label(str(one.answer)),
            honest=one.concise,
            right=str(one.answer),
            wrong=str(one.answer + 1),
            attempt=one.wrong_end,
        )
        for one in generate(_SEED, held_out=True)
    )
    return add_others(list(islice((one for one in problems if not one.shows_answer), num_problems)))


def read_problems(path: Path, grade: Grade, limit: int) -> list[Problem]:
    """The user's problems: JSON lines with question, label and response, an honest right one.

    Args:
        limit: reads so many at most.
    Raises:
        ProblemError: a line is not such an object, or its response is not graded right.
        OSError: the file cannot be read.
    """
    problems = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                problems.append(_read_problem(line, grade))
            except ValueError as error:
                raise ProblemError(f"{path}:{number}: {error}") from error
            if len(problems) == limit:
                break
    if not problems:
        raise ProblemError(f"{path}: no problem in it; each line is one, {_describe_fields()}")
    return add_others(problems)


def add_others(problems: Sequence[Problem]) -> list[Problem]:
    """Gives each problem the honest response to the next problem with another answer."""
    complete = []
    for index, problem in enumerate(problems):
        following = (*problems[index + 1 :], *problems[:index])
        others = (one.honest for one in following if one.right != problem.right)
        complete.append(replace(problem, other=next(others, None)))
    return complete


def _read_problem(line: bytes, grade: Grade) -> Problem:
    """
    Raises:
        ValueError: the line is no problem; the message says what to do.
    """
    row = _read_row(line)
    question, response = (_get_text(row, name) for name in ("question", "response"))
    try:
        label = parse_label(row["label"])
    except LabelError as error:
        raise ValueError(f"label: {error}") from error
    if label.mode == "eval":
        raise ValueError("label: mode is 'eval', which is paid by correctness alone; leave it out")
    verdict = grade(response, label)
    if verdict.reason is not Reason.CORRECT:
        raise ValueError(
            f"the response is graded {verdict.reason} (answer {quote(verdict.answer)}, label "
            f"{quote(label.answer)}); each response must be an honest right one"
        )
    right = verdict.answer or label.answer
    if label.grader in ("choice", "boolean"):
        right = label.answer.capitalize()
    wrong = _find_wrong(label, right)
    return Problem(
        question=question,
        user_turn=question,
        label_as_sent=row["label"],
        label=label,
        honest=response,
        right=right,
        wrong=wrong,
        attempt=_find_attempt(response, label, right, wrong, grade),
    )


def _read_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON; each line is an object {_describe_fields()}") from error
    if not isinstance(row, dict):
        raise ValueError(f"not an object; each line is one {_describe_fields()}")
    if missing := [name for name in _FIELDS if name not in row]:
        raise ValueError(f"{missing[0]} is missing; each line is an object {_describe_fields()}")
    return row


def _get_text(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {quote(value)}; it must be a text")
    return value.strip()


def _describe_fields() -> str:
    return "with question, label and response (an honest right one)"


def _find_wrong(label: Label, right: str) -> str:
    """A wrong answer of the same kind."""
    if label.grader == "boolean":
        return "False" if label.answer == "true" else "True"
    if label.grader == "choice":
        num_options = len(label.choices) or 4
        return chr(ord("A") + (ord(label.answer) - ord("A") + 1) % num_options)
    number = read_number(right)
    if number is None:
        return _NO_ANSWER_OF_ANY
    following = number + 1
    return str(following if following.denominator == 1 else float(following))


def _find_attempt(honest: str, label: Label, right: str, wrong: str, grade: Grade) -> str | None:
    """The honest response with its last mention of the right answer changed to the wrong one. None
    if it has none, or is right nevertheless."""
    mentions = list(re.finditer(rf"(?<!\w){re.escape(right)}(?!\w)", honest, re.IGNORECASE))
    if not mentions:
        return None
    last = mentions[-1]
    attempt = f"{honest[: last.start()]}{wrong}{honest[last.end() :]}"
    return None if grade(attempt, label).reason is Reason.CORRECT else attempt
