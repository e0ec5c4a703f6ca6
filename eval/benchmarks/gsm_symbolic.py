"""GSM-Symbolic, variant p1: GSM8K's problems with other names and numbers, and one more clause.

A row (written for this project; the data set allows no derivatives):
    {"id": 2, "instance": 0, "question": "A roll of wire is 50 metres. Two pieces of 8.5 ...?",
     "answer": "2*8.5=17 and 17+12=29. 50-29=21.\\n#### 21", "original_id": 102,
     "original_question": "...", "original_answer": "...", "canary": "..."}

Hub: apple/GSM-Symbolic, config p1, split test (5,000 rows). Licence: CC BY-NC-ND 4.0.
Mirzadeh et al., GSM-Symbolic, arXiv:2410.05229.

Prepared like GSM8K. A problem's id is `<template id>-<instance number>`. Some labels are decimals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.gsm8k import clean_text, parse_final_number
from eval.benchmarks.rows import HubSource, Row


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    for row in rows:
        id_ = f"{row.get_integer('id')}-{row.get_integer('instance')}"
        yield Problem(id_, clean_text(row.get_text("question")), parse_final_number(row))


BENCHMARK = Benchmark(
    name="gsm_symbolic",
    description="GSM8K with other names and numbers, p1",
    source=HubSource(
        "apple/GSM-Symbolic", "p1", "test", "93b5b3758d9d9841ffe81d6cd2ae2b030685b078"
    ),
    columns=("id", "instance", "question", "answer"),
    file="gsm_symbolic.jsonl",
    licence="CC BY-NC-ND 4.0",
    citation="Mirzadeh et al., arXiv:2410.05229",
    joiner=" ",
    prepare=prepare,
)
