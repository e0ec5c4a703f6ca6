"""ProntoQA: given a page of rules about invented creatures, is a statement true?

A row, shortened:
    {"id": "ProntoQA_1", "context": "Jompuses are not shy. Jompuses are yumpuses. ...",
     "question": "Is the following statement true or false? Max is sour.", "answer": "B",
     "options": ["A) True", "B) False"], "raw_logic_programs": ["Predicates: ..."]}

Hub: renma/ProntoQA, config default, split validation (500 rows). Licence: MIT (Logic-LLM).
Saparov and He, Language Models Are Greedy Reasoners, arXiv:2210.01240; this selection of Pan et
al., Logic-LM, arXiv:2305.12295.

As in the paper (arXiv:2509.05489), context, question and instruction are joined by spaces, and the
label is True or False. The options are not shown, so no letter is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.rows import HubSource, Row

_TRUTHS = {"A": "True", "B": "False"}


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    for row in rows:
        letter = row.get_text("answer")
        if letter not in _TRUTHS:
            raise row.make_error("answer", f"{letter[:20]!r} is neither A (true) nor B (false)")
        yield Problem(
            row.get_text("id"),
            f"{row.get_text('context')} {row.get_text('question')}",
            row.make_label("answer", _TRUTHS[letter], "boolean"),
        )


BENCHMARK = Benchmark(
    name="prontoqa",
    description="deduction over invented creatures, true or false",
    source=HubSource(
        "renma/ProntoQA", "default", "validation", "6f3e03863ce763efd1f9cd11aacf4caff1b7af02"
    ),
    columns=("id", "context", "question", "answer"),
    file="prontoqa.jsonl",
    licence="MIT",
    citation="Saparov and He, arXiv:2210.01240; Pan et al., arXiv:2305.12295",
    joiner=" ",
    prepare=prepare,
)
