r"""NuminaMath, as OpenR1-Math-220k has it: a held-out 8% of its word problems with a number for an
answer.

A row, shortened:
    {"problem": "3. (6 points) A construction company was building a tunnel. ...", "answer": "180",
     "solution": "...", "question_type": "math-word-problem", "source": "olympiads", "uuid": "...",
     "generations": ["<think> ...", ...], "correctness_math_verify": [true, false],
     "correctness_llama": null, ...}

Hub: open-r1/OpenR1-Math-220k, config default, split train (93,733 rows; there is no other), about
5 GB. Licence: Apache-2.0. Hugging Face, Open R1 (github.com/huggingface/open-r1), 2025; problems
from Li et al., NuminaMath, 2024.

As in the paper (arXiv:2509.05489), a row stays if it is a word problem, math-verify found one of
its generations right, its answer is a short number (see `eval.benchmarks.math`), and "http" is
neither in problem nor solution. Of these, 8% are held out: the first of numpy's permutation with
seed 42, which is what `datasets`' `train_test_split(test_size=0.08, seed=42)` takes. The
instruction follows a line break.

Departures from the paper:
1. A held-out row whose answer has no digit is left out: the filter lets `\..-` and an empty answer
   pass, and no response could be right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.math import has_gradable_number, is_short_number
from eval.benchmarks.rows import HubSource, Row

HELD_OUT_SHARE = 0.08
SPLIT_SEED = 42


def is_kept(row: Row) -> bool:
    """Whether the paper's filter keeps a row."""
    return (
        row.get_text("question_type") == "math-word-problem"
        and any(row.get_booleans("correctness_math_verify"))
        and is_short_number(row.get_string("answer"))
        and "http" not in row.get_text("problem")
        and "http" not in row.get_string("solution")
    )


def choose_held_out(num_rows: int) -> list[int]:
    """Which of the rows that were kept are for evaluation, in the order of the split."""
    permutation = np.random.default_rng(SPLIT_SEED).permutation(num_rows)
    return [int(i) for i in permutation[: math.ceil(HELD_OUT_SHARE * num_rows)]]


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    kept = _kept(rows)
    return _problems(kept, choose_held_out(len(kept)))


def prepare_training(rows: Iterable[Row]) -> Iterator[Problem]:
    """The other 92% of the rows that were kept, in their order."""
    kept = _kept(rows)
    held_out = set(choose_held_out(len(kept)))
    return _problems(kept, [i for i in range(len(kept)) if i not in held_out])


def _kept(rows: Iterable[Row]) -> list[Row]:
    """Solutions are long and done with; the split needs all rows at once."""
    fields = ("problem", "answer")
    return [
        Row(row.where, row.index, {field: row.values[field] for field in fields})
        for row in rows
        if is_kept(row)
    ]


def _problems(kept: Sequence[Row], indices: Iterable[int]) -> Iterator[Problem]:
    for row in (kept[i] for i in indices):
        answer = row.get_string("answer")
        if has_gradable_number(answer):
            label = row.make_label("answer", answer, "math")
            yield Problem(str(row.index), row.get_text("problem"), label)


BENCHMARK = Benchmark(
    name="numinamath",
    description="OpenR1-Math-220k's word problems, the held-out 8%",
    source=HubSource(
        "open-r1/OpenR1-Math-220k",
        "default",
        "train",
        "e4e141ec9dea9f8326f4d347be56105859b2bd68",
    ),
    columns=("problem", "solution", "answer", "question_type", "correctness_math_verify"),
    file="openr1.jsonl",
    licence="Apache-2.0",
    citation="Hugging Face, Open R1, 2025; Li et al., NuminaMath, 2024",
    joiner="\n",
    prepare=prepare,
)
