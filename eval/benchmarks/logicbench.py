"""LogicBench (Eval), multiple choice: which conclusion follows from a context?

A row, shortened. `type` and `axiom` are fields of the file; each of its samples gets a copy:
    {"type": "first_order_logic", "axiom": "modus_ponens", "id": 1,
     "context": "If someone is extremely tired, then they will seek some rest ...",
     "question": "Considering the provided context, what conclusion would be deemed most suitable?",
     "choices": {"choice_1": "Emily will watch a movie", ..., "choice_4": "He will take rest"},
     "answer": "choice_4"}

Hub: cogint/LogicBench-v1.0 (also github.com/Mihir3009/LogicBench): 25 files of 20 samples,
`data/LogicBench(Eval)/MCQA/<type>/<axiom>/data_instances.json`, without configs or splits. A
--data-dir holds that tree, or `logicbench.jsonl`. Licence: MIT. Parmar et al., LogicBench,
arXiv:2404.15522. No commit is pinned; the fingerprint in run.json shows whether two runs used the
same data.

As in the paper (arXiv:2509.05489), the choices are listed by letter after the question and the
instruction follows a line break; one item has five choices. In the folder `nm_logic` the
field `type` is `non_monotonic_logic`; ids use the field. Departures from the paper:
1. The sentence that introduces the choices is in our words.
2. Files are sorted by path, instead of in the file system's order.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator
from pathlib import Path

from eval.benchmarks.base import Benchmark, Problem
from eval.benchmarks.rows import HubSource, Row, RowError, download_from_hub
from sar.errors import first_line

_FILE = "data_instances.json"
_INTRODUCTION = "Choose one of these answers:"


def prepare(rows: Iterable[Row]) -> Iterator[Problem]:
    for row in rows:
        choices = row.get_mapping("choices")
        answer = row.get_text("answer")
        if answer not in choices:
            raise row.make_error("answer", f"{answer[:40]!r} is not one of {', '.join(choices)}")
        if len(choices) > len(string.ascii_uppercase):
            raise row.make_error("choices", f"{len(choices)} choices; at most 26 have a letter")
        letter = string.ascii_uppercase[list(choices).index(answer)]
        yield Problem(
            f"{row.get_text('type')}/{row.get_text('axiom')}/{row.get_integer('id')}",
            _format_question(row, list(choices.values())),
            row.make_label("answer", letter, "choice", list(choices.values())),
        )


def read_tree(folder: Path) -> Iterator[Row] | None:
    """The samples of all `MCQA/<type>/<axiom>/data_instances.json` in a folder; None if none."""
    # No glob pattern: the folder names contain parentheses, and may contain brackets.
    paths = sorted(p for p in folder.rglob(_FILE) if "MCQA" in p.relative_to(folder).parts)
    return _read_samples(paths) if paths else None


def _format_question(row: Row, choices: list[str]) -> str:
    options = [
        f"{letter}: {text}" for letter, text in zip(string.ascii_uppercase, choices, strict=False)
    ]
    asked = f"{row.get_text('context')}\n{row.get_text('question')} {_INTRODUCTION}"
    return "\n".join([asked, *options])


def _read_samples(paths: list[Path]) -> Iterator[Row]:
    index = 0
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise RowError(f"{path}: not JSON: {first_line(error)}") from error
        samples = content.get("samples") if isinstance(content, dict) else None
        if not isinstance(samples, list):
            raise RowError(f"{path}, field 'samples': expected a list of samples")
        shared = {field: content.get(field) for field in ("type", "axiom")}
        for number, sample in enumerate(samples, start=1):
            where = f"{path}, sample {number}"
            if not isinstance(sample, dict):
                raise RowError(f"{where}: expected an object")
            yield Row(where, index, {**shared, **sample})
            index += 1


def _read_hub(source: HubSource, columns: tuple[str, ...]) -> Iterator[Row]:
    rows = read_tree(download_from_hub(source, [f"*MCQA/*/{_FILE}"]))
    if rows is None:
        raise RowError(f"{source.hub_id}: no file MCQA/<type>/<axiom>/{_FILE}")
    return rows


BENCHMARK = Benchmark(
    name="logicbench",
    description="which conclusion follows, multiple choice",
    source=HubSource("cogint/LogicBench-v1.0", "MCQA", "Eval", "main"),
    columns=("type", "axiom", "id", "context", "question", "choices", "answer"),
    file="logicbench.jsonl",
    licence="MIT",
    citation="Parmar et al., arXiv:2404.15522",
    joiner="\n",
    prepare=prepare,
    read_source=_read_hub,
    read_folder=read_tree,
)
