"""Demo: toy word problems that the bundled model can solve. Not one of the paper's seven.

A row:
    {"question": "Anna has 12 apples. She buys 5 more. How many apples does Anna have?",
     "answer": "17"}

`sar.models.problems` generates them. They are held out: the bundled model was not trained on them.
Neither the hub nor a --data-dir is read. Licence: Apache-2.0, as this project.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.rows import HubSource, Row
from sar.models.problems import generate

NUM_PROBLEMS = 200
_SEED = 31


def _generate_rows(source: HubSource, columns: tuple[str, ...]) -> Iterator[Row]:
    questions: set[str] = set()
    for problem in generate(_SEED, held_out=True):
        if len(questions) == NUM_PROBLEMS:
            return
        if problem.question not in questions:
            values = {"question": problem.question, "answer": str(problem.answer)}
            yield Row(f"demo problem {len(questions)}", len(questions), values)
            questions.add(problem.question)


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    for row in rows:
        label = row.make_label("answer", row.get_text("answer"), "math")
        yield Problem(str(row.index), row.get_text("question"), label)


BENCHMARK = Benchmark(
    name="demo",
    description="toy word problems for the bundled model",
    source=HubSource("sar.models.problems", "held_out", str(_SEED), "built in"),
    columns=("question", "answer"),
    file="",
    licence="Apache-2.0",
    citation="this project",
    joiner=" ",
    prepare=prepare,
    read_source=_generate_rows,
    is_built_in=True,
)
