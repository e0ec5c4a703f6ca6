"""GSM8K: grade-school word problems whose answer is a number.

A row:
    {"question": "A robe takes 2 bolts of blue fiber and half that much white fiber. ...?",
     "answer": "It takes 2/2=<<2/2=1>>1 bolt of white fiber\\nSo the total amount ... \\n#### 3"}

Hub: openai/gsm8k, config main, split test (1,319 rows; train 7,473). Licence: MIT.
Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv:2110.14168.

As in the paper (arXiv:2509.05489), ftfy and NFKC clean the question, the label is the text after
`####`, and the instruction follows a space. Fourteen labels have a thousands comma.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.rows import HubSource, Row
from sar.grading.label import Label


def clean_text(text: str) -> str:
    """Repairs broken encodings, straightens quotation marks, replaces compatibility characters."""
    import ftfy

    return unicodedata.normalize("NFKC", ftfy.fix_text(text))


def parse_final_number(row: Row, field: str = "answer") -> Label:
    """The label: what follows `####` in a worked solution.

    Raises:
        RowError: there is no `####`.
    """
    _, marker, answer = row.get_text(field).rpartition("####")
    if not marker:
        raise row.make_error(field, "has no '#### ' followed by the result")
    return row.make_label(field, clean_text(answer).strip(), "math")


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    for row in rows:
        yield Problem(str(row.index), clean_text(row.get_text("question")), parse_final_number(row))


BENCHMARK = Benchmark(
    name="gsm8k",
    description="grade-school word problems",
    source=HubSource("openai/gsm8k", "main", "test", "740312add88f781978c0658806c59bc2815b9866"),
    columns=("question", "answer"),
    file="gsm8k.jsonl",
    licence="MIT",
    citation="Cobbe et al., arXiv:2110.14168",
    joiner=" ",
    prepare=prepare,
)
