r"""NuminaMath, from OpenR1-Math-220k: a held-out 8% of the word problems whose answer is a number.

A row, shortened:
    {"problem": "3. (6 points) A construction company was building a tunnel. ...", "answer": "180",
     "solution": "...", "question_type": "math-word-problem", "source": "olympiads", "uuid": "...",
     "generations": ["<think> ...", ...], "correctness_math_verify": [true, false],
     "correctness_llama": null, ...}

Hub: open-r1/OpenR1-Math-220k, config default, split train (93,733 rows; the only split), about
5 GB. Licence: Apache-2.0. Hugging Face, Open R1 (github.com/huggingface/open-r1), 2025; problems
from Li et al., NuminaMath, 2024.

As in the paper (arXiv:2509.05489), a row is kept if it is a word problem, math-verify found one of
its generations correct, its answer is a short number (see `eval.benchmarks.math`), and neither
problem nor solution contains "http". 8% of the kept rows are held out: the first of numpy's
permutation with seed 42. `train_test_split(test_size=0.08, seed=42)` of `datasets` takes the same
ones. The instruction follows a line break.

Departures from the paper:
1. A held-out row whose answer has no digit is left out, because no response could be correct. The
   paper's filter keeps such answers: `\..-`, or an empty one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.math import has_digit, passes_paper_filter
from eval.benchmarks.rows import HubSource, Row

HELD_OUT_SHARE = 0.08
SPLIT_SEED = 42


def is_kept(row: Row) -> bool:
    """True if the paper's filter keeps the row."""
    return (
        row.get_text("question_type") == "math-word-problem"
        and any(row.get_booleans("correctness_math_verify"))
        and passes_paper_filter(row.get_string("answer"))
        and "http" not in row.get_text("problem")
        and "http" not in row.get_string("solution")
    )


def choose_held_out(num_rows: int) -> list[int]:
    """Indices of the held-out rows among the kept ones, in the order of the split."""
    permutation = np.random.default_rng(SPLIT_SEED).permutation(num_rows)
    return [int(i) for i in permutation[: math.ceil(HELD_OUT_SHARE * num_rows)]]


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    kept = _filter(rows)
    return _make_problems(kept, choose_held_out(len(kept)))


def prepare_training(rows: Iterable[Row]) -> Iterator[Problem]:
    """The other 92% of the kept rows, in their order."""
    kept = _filter(rows)
    held_out = set(choose_held_out(len(kept)))
    return _make_problems(kept, [i for i in range(len(kept)) if i not in held_out])


def _filter(rows: Iterable[Row]) -> list[Row]:
    """The rows that the filter keeps, without their long solutions: the split needs all at once."""
    fields = ("problem", "answer")
    return [
        Row(row.where, row.index, {field: row.values[field] for field in fields})
        for row in rows
        if is_kept(row)
    ]


def _make_problems(kept: Sequence[Row], indices: Iterable[int]) -> Iterator[Problem]:
    for row in (kept[i] for i in indices):
        answer = row.get_string("answer")
        if has_digit(answer):
            label = row.make_label("answer", answer, "math")
            yield Problem(str(row.index), row.get_text("problem"), label)


BENCHMARK = Benchmark(
    name="numinamath",
    description="OpenR1-Math-220k's word problems, the held-out 8%",
    source=HubSource(
        "open-r1/OpenR1-Math-220k", "default", "train", "e4e141ec9dea9f8326f4d347be56105859b2bd68"
    ),
    columns=("problem", "solution", "answer", "question_type", "correctness_math_verify"),
    file="openr1.jsonl",
    licence="Apache-2.0",
    citation="Hugging Face, Open R1, 2025; Li et al., NuminaMath, 2024",
    joiner="\n",
    prepare=prepare,
)
