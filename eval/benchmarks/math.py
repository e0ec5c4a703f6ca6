r"""MATH: the competition problems of its test split whose answer is a number.

A row (written for this project):
    {"problem": "What is the value of $3x+2$ when $x=7$?", "level": "Level 1", "type": "Algebra",
     "solution": "Substituting gives $3\\cdot 7+2=\\boxed{23}$."}

Hub: DigitalLearningGmbH/MATH-lighteval, config default, split test (5,000 rows; train 7,500). The
same columns are in EleutherAI/hendrycks_math, under seven configs. Licence: MIT, by its authors.
Hendrycks et al., Measuring Mathematical Problem Solving With the MATH Dataset, arXiv:2103.03874.

As in the paper (arXiv:2509.05489), a problem is kept if the last box of its solution has at most 20
characters and is a number or a simple fraction: 3,742 problems. The instruction follows a space. A
solution with a box without braces anywhere, `\boxed 5`, counts as one without an answer, as in the
paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.rows import HubSource, Row

MAX_ANSWER_CHARS = 20

_DIGITS = r"[-0-9.()\\]*"
_FRACTION = r"(?:\\frac\{[1-9][0-9]*\}\{[1-9][0-9]*\})?"
_NUMBER = re.compile(_DIGITS + _FRACTION + _DIGITS)
_BRACE = re.compile(r"[{}]")


def is_short_number(answer: str) -> bool:
    r"""The paper's filter for answers: digits, minus signs, points, parentheses, backslashes, and
    at most one `\frac{n}{m}` of positive whole numbers. An empty answer passes."""
    return len(answer) <= MAX_ANSWER_CHARS and _NUMBER.fullmatch(answer) is not None


def find_last_box(solution: str) -> str | None:
    r"""The content of the last `\boxed{}`, else of the last `\fbox{}`; None if it has no end."""
    if "\\boxed " in solution:
        return None
    for command in ("\\boxed", "\\fbox"):
        start = solution.rfind(command)
        if start >= 0:
            return _read_braces(solution, start + len(command))
    return None


def has_gradable_number(answer: str) -> bool:
    r"""True if the answer has a digit. `\..-` and an empty answer pass the filter without one."""
    return any(char.isdigit() for char in answer)


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    for row in rows:
        answer = find_last_box(row.get_text("solution"))
        if answer is not None and is_short_number(answer) and has_gradable_number(answer):
            label = row.make_label("solution", answer, "math")
            yield Problem(str(row.index), row.get_text("problem"), label)


def _read_braces(text: str, start: int) -> str | None:
    """The text between the brace at `start` and the one that closes it; None without either."""
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
