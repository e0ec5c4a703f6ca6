"""AIME 1983-2024: problems of the American Invitational Mathematics Examination.

A row (written for this project; the texts are the MAA's):
    {"ID": "own-2", "Year": 2001, "Problem Number": 3, "Part": "I",
     "Question": "A list of five integers has mean $12$ and median $10$; ...", "Answer": "22"}

Hub: gneubig/aime-1983-2024 (also di-zhang-fdu/AIME_1983_2024), config default, split train (933 of
1,005 problems: 2024-I and many with figures are missing, some contain `[asy]` code). Licence: the
texts are the Mathematical Association of America's. No commit is pinned; the fingerprint in
run.json shows whether two runs used the same data.

As in the paper (arXiv:2509.05489), rows are used as they are, and the instruction follows a line
break. `Answer` is text. One is `080 or 081 (both were accepted)`; the grader accepts both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.rows import HubSource, Row


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    for row in rows:
        label = row.make_label("Answer", row.get_text("Answer"), "math")
        yield Problem(row.get_text("ID"), row.get_text("Question"), label)


BENCHMARK = Benchmark(
    name="aime",
    description="AIME 1983-2024",
    source=HubSource("gneubig/aime-1983-2024", "default", "train", "main"),
    columns=("ID", "Question", "Answer"),
    file="aime.jsonl",
    licence="texts: MAA",
    citation="Mathematical Association of America, AIME 1983-2024",
    joiner="\n",
    prepare=prepare,
)
