r"""MATH: the competition problems of its test split whose answer is a number.

A row (written for this project):
    {"problem": "What is the value of $3x+2$ when $x=7$?", "level": "Level 1", "type": "Algebra",
     "solution": "Substituting gives $3\\cdot 7+2=\\boxed{23}$."}

Hub: DigitalLearningGmbH/MATH-lighteval, config default, split test (5,000 rows; train 7,500). The
same columns are in EleutherAI/hendrycks_math, under seven configs. Licence: MIT, by its authors.
Hendrycks et al., Measuring Mathematical Problem Solving With the MATH Dataset, arXiv:2103.03874.

As in the paper (arXiv:2509.05489), a problem is kept if the last box of its solution has at most 20
characters and is a number or a simple fraction: 3,742 problems. Also as in the paper, a solution
that contains a box without braces, `\boxed 5`, counts as having no answer, and a space separates
question and instruction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.rows import HubSource, Row

MAX_ANSWER_CHARS = 20

_NUMBER_CHARS = r"[-0-9.()\\]*"
_FRACTION = r"(?:\\frac\{[1-9][0-9]*\}\{[1-9][0-9]*\})?"
_NUMBER = re.compile(_NUMBER_CHARS + _FRACTION + _NUMBER_CHARS)
_BRACE = re.compile(r"[{}]")


def passes_paper_filter(answer: str) -> bool:
    r"""True if the answer is at most 20 characters of digits, minus signs, points, parentheses and
    backslashes, with at most one `\frac{n}{m}` of positive whole numbers. It may be empty."""
    return len(answer) <= MAX_ANSWER_CHARS and _NUMBER.fullmatch(answer) is not None


def find_last_box(solution: str) -> str | None:
    r"""Returns what is in the last `\boxed{}`, else in the last `\fbox{}`.

    None if there is no box, if the last one is not closed, or if a box has no braces (`\boxed 5`).
    """
    if "\\boxed " in solution:
        return None
    for command in ("\\boxed", "\\fbox"):
        start = solution.rfind(command)
        if start >= 0:
            return _read_braces(solution, start + len(command))
    return None


def has_digit(answer: str) -> bool:
    r"""True if the answer has a digit. The paper's filter also lets `\..-` and an empty answer
    pass, which no response could match."""
    return any(char.isdigit() for char in answer)


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    for row in rows:
        answer = find_last_box(row.get_text("solution"))
        if answer is not None and passes_paper_filter(answer) and has_digit(answer):
            label = row.make_label("solution", answer, "math")
            yield Problem(str(row.index), row.get_text("problem"), label)


def _read_braces(text: str, start: int) -> str | None:
    """Returns the text between the brace at `start` and its closing one; None if one is missing."""
    if text[start : start + 1] != "{":
        return None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + 1 : brace.start()]
    return None


BENCHMARK = Benchmark(
    name="math",
    description="competition mathematics with a number for an answer",
    source=HubSource(
        "DigitalLearningGmbH/MATH-lighteval",
        "default",
        "test",
        "0530c78699ea5e8eb5530600900e1f328b48acad",
    ),
    columns=("problem", "solution"),
    file="math.jsonl",
    licence="MIT",
    citation="Hendrycks et al., arXiv:2103.03874",
    joiner=" ",
    prepare=prepare,
)
