"""python recipes/prepare_data.py --output data [--data-dir DIR] [--benchmark-dir DIR]

Writes prompts for OpenRLHF: train.jsonl from the training splits of GSM8K, MATH and NuminaMath
(OpenR1-Math-220k), eval.jsonl from the seven benchmarks, and manifest.json, which says where every
row came from and which were dropped. A row:

    {"prompt": [{"role": "system", "content": ...}, {"role": "user", "content": ...}],
     "label": "{\\"answer\\": \\"3\\", \\"grader\\": \\"math\\", \\"mode\\": \\"train\\"}",
     "datasource": "gsm8k"}

Started again, it does not fetch or filter again what lies finished in OUTPUT/parts.

Prepared as in the paper (arXiv:2509.05489): the same filters as the benchmarks of the same name, at
most 10,000 of each data set, seed 42. Departures from it:
1. A training problem that shares 13 words in a row with a problem of a benchmark, or holds a
   shorter one whole, is dropped; it is named in the manifest.
2. So is one that holds "<image>", which OpenRLHF takes for the place of a picture.
3. Problems whose answer has no digit are left out, as no response to them could be right.
4. Evaluation during training takes at most 250 problems of each benchmark; `--eval-cap 0`: all.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks import BENCHMARKS, Benchmark, Problem, choose_benchmarks, load_problems
from eval.benchmarks.numinamath import prepare_training
from eval.benchmarks.rows import Row
from eval.errors import UserError
from sar.arguments import number
from sar.contamination import NGRAM_WORDS, ContaminationIndex
from sar.files import write_atomically
from sar.grading.label import parse_label
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION

# Counted up when a part would come out differently: finished ones are then made again.
_FORMAT = 1
_IMAGE = "<image>"

Prepare = Callable[[Iterable[Row]], Iterator[Problem]]


@dataclass(frozen=True)
class Dropped:
    """A training problem that was left out, and why."""

    dataset: str
    id: str
    reason: str
    benchmark: str | None = None
    benchmark_id: str | None = None
    shared: str | None = None
    """The words that it shares with the benchmark's problem."""


def training_set(name: str) -> Benchmark:
    """The training split of a benchmark's data set, prepared as the benchmark is."""
    benchmark = BENCHMARKS[name]
    prepare: Prepare = prepare_training if name == "numinamath" else benchmark.prepare
    source = dataclasses.replace(benchmark.source, split="train")
    return dataclasses.replace(benchmark, source=source, prepare=prepare)


TRAINING_SETS = tuple(map(training_set, ("gsm8k", "math", "numinamath")))


def sample(problems: Sequence[Problem], cap: int, seed: int) -> list[Problem]:
    """At most `cap` problems, 0 for all: those that pandas' `DataFrame.sample` takes, as the
    authors do."""
    if not cap or len(problems) <= cap:
        return list(problems)
    chosen = np.random.RandomState(seed).choice(len(problems), size=cap, replace=False)
    return [problems[i] for i in chosen]


def shuffled(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """In another order, as a run may take only the first so many."""
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def read_part(
    path: Path, benchmark: Benchmark, data_dir: Path | None, cap: int, seed: int
) -> list[Problem]:
    """A data set's problems: from its finished part if it was made in the same way, else made and
    written.

    Raises:
        UserError: the data cannot be had, or does not fit its schema.
    """
    made_from = {"format": _FORMAT, "cap": cap, "seed": seed, **_origin(benchmark, data_dir)}
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            if json.loads(next(lines)) == made_from:
                return [_problem(json.loads(line)) for line in lines]
    watched = dataclasses.replace(
        benchmark, prepare=lambda rows: benchmark.prepare(_progress(rows, path.stem, "rows"))
    )
    problems = sample(load_problems(watched, data_dir).problems, cap, seed)
    write_lines(path, [made_from, *map(asdict, problems)])
    return problems


def without_contamination(
    training: Mapping[str, Sequence[Problem]], benchmarks: Mapping[str, Sequence[Problem]]
) -> tuple[dict[str, list[Problem]], list[Dropped]]:
    """Training problems, by data set, that share nothing with the benchmarks' questions; and the
    others."""
    questions = [(name, problem) for name, of_one in benchmarks.items() for problem in of_one]
    index = ContaminationIndex(problem.question for _, problem in questions)
    clean: dict[str, list[Problem]] = {name: [] for name in training}
    dropped = []
    for name, problems in training.items():
        for problem in _progress(problems, f"{name}: looking for the benchmarks", "problems"):
            if _IMAGE in problem.question:
                dropped.append(Dropped(name, problem.id, f"holds {_IMAGE}"))
            elif matches := index.find_matches(problem.question):
                benchmark, other = questions[matches[0].question]
                shared = " ".join(matches[0].ngram)
                dropped.append(
                    Dropped(name, problem.id, "contaminated", benchmark, other.id, shared)
                )
            else:
                clean[name].append(problem)
    return clean, dropped


def prompt_row(
    benchmark: Benchmark, problem: Problem, mode: str, system_prompt: str
) -> dict[str, Any]:
    """A problem as OpenRLHF reads it, with `--data.input_key prompt --data.label_key label
    --data.apply_chat_template`; `mode` is train or eval, as in `sar.grading.label`."""
    turns = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
    user_turn = f"{problem.question}{benchmark.joiner}{INSTRUCTION}"
    label: dict[str, Any] = {
        "answer": problem.label.answer,
        "grader": problem.label.grader,
        "mode": mode,
    }
    if problem.label.choices:
        label["choices"] = list(problem.label.choices)
    return {
        "prompt": [*turns, {"role": "user", "content": user_turn}],
        "label": json.dumps(label, ensure_ascii=False),
        "datasource": benchmark.name,
    }


def prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes all files; the manifest.

    Raises:
        UserError: as `read_part`; or nothing is left to train on.
    """
    parts, seed = arguments.output / "parts", arguments.seed
    seven = choose_benchmarks("all")
    benchmarks = {
        b.name: read_part(parts / f"benchmark-{b.name}.jsonl", b, arguments.benchmark_dir, 0, seed)
        for b in seven
    }
    training = {
        t.name: read_part(
            parts / f"train-{t.name}.jsonl", t, arguments.data_dir, arguments.cap, seed
        )
        for t in TRAINING_SETS
    }
    clean, dropped = without_contamination(training, benchmarks)
    if not any(clean.values()):
        raise UserError("no training problem is left: each one stands in a benchmark too")
    evaluated = {b.name: sample(benchmarks[b.name], arguments.eval_cap, seed) for b in seven}

    rows = {
        "train": [
            prompt_row(t, p, "train", arguments.system_prompt)
            for t in TRAINING_SETS
            for p in clean[t.name]
        ],
        "eval": [
            prompt_row(b, p, "eval", arguments.system_prompt)
            for b in seven
            for p in evaluated[b.name]
        ],
    }
    for name, of_one in rows.items():
        write_lines(arguments.output / f"{name}.jsonl", shuffled(of_one, seed))
    settings = ("seed", "cap", "eval_cap", "system_prompt")
    manifest = {
        **{name: getattr(arguments, name) for name in settings},
        "instruction": INSTRUCTION,
        "ngram_words": NGRAM_WORDS,
        "train": {t.name: _counts(training, clean, t, arguments.data_dir) for t in TRAINING_SETS},
        "eval": {b.name: _counts(benchmarks, evaluated, b, arguments.benchmark_dir) for b in seven},
        "dropped": list(map(asdict, dropped)),
    }
    write_atomically(arguments.output / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """JSON lines; the file is there whole or not at all."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 where the data cannot be had, with a line why."""
    arguments = _parser().parse_args(argv)
    try:
        manifest = prepare(arguments)
    except (UserError, OSError) as error:
        sys.stderr.write(f"prepare_data: {error}\n")
        return 1
    for name, counts in manifest["train"].items():
        print(
            f"train  {name:<13}{counts['num_written']:>7,} of {counts['num_problems']:,}; "
            f"{counts['num_problems'] - counts['num_written']:,} dropped"
        )
    for name, counts in manifest["eval"].items():
        print(f"eval   {name:<13}{counts['num_written']:>7,} of {counts['num_problems']:,}")
    num_contaminated = sum(one["reason"] == "contaminated" for one in manifest["dropped"])
    print(
        f"{num_contaminated:,} training problems shared {NGRAM_WORDS} words in a row, or a whole "
        f"shorter problem, with a benchmark; they are in {arguments.output / 'manifest.json'}"
    )
    return 0


def _origin(benchmark: Benchmark, data_dir: Path | None) -> dict[str, Any]:
    """What a data set was read from, so that a change of it is seen."""
    if data_dir is None:
        return {"source": asdict(benchmark.source)}
    path = data_dir / benchmark.file
    if not path.is_file():  # another layout, such as LogicBench's tree
        return {"folder": str(data_dir.resolve())}
    stat = path.stat()
    return {"file": str(path.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _counts(
    problems: Mapping[str, Sequence[Problem]],
    written: Mapping[str, Sequence[Problem]],
    benchmark: Benchmark,
    data_dir: Path | None,
) -> dict[str, Any]:
    return {
        "num_problems": len(problems[benchmark.name]),
        "num_written": len(written[benchmark.name]),
        **_origin(benchmark, data_dir),
    }


def _problem(values: Mapping[str, Any]) -> Problem:
    return Problem(values["id"], values["question"], parse_label(values["label"]))


def _progress(items: Iterable[Any], description: str, unit: str) -> Iterable[Any]:
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(items, desc=description, unit=f" {unit}", mininterval=0.5)
    return bar


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python recipes/prepare_data.py",
        description="Prepares training and evaluation prompts for OpenRLHF.",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder with the training data as gsm8k.jsonl, math.jsonl and openr1.jsonl in the "
        "hub's columns (default: the hub)",
    )
    parser.add_argument(
        "--benchmark-dir",
        type=Path,
        help="folder with the seven benchmarks' files in the hub's columns (default: the hub)",
    )
    parser.add_argument(
        "--cap",
        type=number(0, kind=int),
        default=10_000,
        help="problems of a data set, 0 for all (%(default)s)",
    )
    parser.add_argument(
        "--eval-cap",
        type=number(0, kind=int),
        default=250,
        help="problems of a benchmark in eval.jsonl, 0 for all (%(default)s)",
    )
    parser.add_argument("--seed", type=number(0, 2**32 - 1, int), default=42, help="%(default)s")
    parser.add_argument(
        "--system-prompt",
        default=DEFAULT_SYSTEM_PROMPT,
        help="the server needs the same as its --system-prompt; '' for none",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
