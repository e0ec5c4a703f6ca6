"""python recipes/prepare_data.py --output data [--data-dir DIR] [--benchmark-dir DIR]

Writes prompts for OpenRLHF: train.jsonl from the training splits of GSM8K, MATH and NuminaMath
(OpenR1-Math-220k), and eval.jsonl from the seven benchmarks. manifest.json lists the sources, the
number of rows from each and the dropped problems. A row:

    {"prompt": [{"role": "system", "content": ...}, {"role": "user", "content": ...}],
     "label": "{\\"answer\\": \\"3\\", \\"grader\\": \\"math\\", \\"mode\\": \\"train\\"}",
     "datasource": "gsm8k"}

Each data set, once fetched and filtered, is kept in OUTPUT/parts and reused by later runs.

The data is prepared as in the paper (arXiv:2509.05489): with the filters of the benchmark of the
same name, at most 10,000 problems of each data set, seed 42. Departures from the paper:
1. A training problem is dropped, and listed in the manifest, if it shares 13 consecutive words with
   a benchmark's problem or contains a shorter one whole.
2. A problem that contains "<image>" is dropped too: OpenRLHF would insert a picture there.
3. Problems whose answer has no digit are left out, because no response to them could be right.
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

# Version of the files in OUTPUT/parts. Increase it when their content changes: parts of another
# version are not reused.
_FORMAT = 1
_IMAGE = "<image>"

Prepare = Callable[[Iterable[Row]], Iterator[Problem]]


@dataclass(frozen=True)
class DroppedProblem:
    """A training problem that was dropped, and why."""

    dataset: str
    id: str
    reason: str
    benchmark: str | None = None
    benchmark_id: str | None = None
    shared: str | None = None
    """Words that both problems contain."""


def make_training_set(name: str) -> Benchmark:
    """Describes the training split of a benchmark's data set, with the benchmark's filters."""
    benchmark = BENCHMARKS[name]
    prepare: Prepare = prepare_training if name == "numinamath" else benchmark.prepare
    source = dataclasses.replace(benchmark.source, split="train")
    return dataclasses.replace(benchmark, source=source, prepare=prepare)


TRAINING_SETS = tuple(map(make_training_set, ("gsm8k", "math", "numinamath")))


def sample_problems(problems: Sequence[Problem], cap: int, seed: int) -> list[Problem]:
    """Draws at most `cap` problems (0: all), the same as the authors' pandas `DataFrame.sample`."""
    if not cap or len(problems) <= cap:
        return list(problems)
    chosen = np.random.RandomState(seed).choice(len(problems), size=cap, replace=False)
    return [problems[i] for i in chosen]


def shuffle_rows(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Shuffles the rows, because a training run may use only the first ones."""
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def load_part(
    path: Path, benchmark: Benchmark, data_dir: Path | None, cap: int, seed: int
) -> list[Problem]:
    """Loads a data set's problems.

    Reads them from `path` if that file was made from the same source with the same settings. Else
    it fetches and filters the data set, and writes `path`.

    Raises:
        UserError: the data set cannot be loaded, or does not have the expected columns.
    """
    origin = {"format": _FORMAT, "cap": cap, "seed": seed, **_describe_source(benchmark, data_dir)}
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            if json.loads(next(lines)) == origin:
                return [_parse_problem(json.loads(line)) for line in lines]
    watched = dataclasses.replace(
        benchmark, prepare=lambda rows: benchmark.prepare(_show_progress(rows, path.stem, "rows"))
    )
    problems = sample_problems(load_problems(watched, data_dir).problems, cap, seed)
    write_lines(path, [origin, *map(asdict, problems)])
    return problems


def remove_contaminated(
    training: Mapping[str, Sequence[Problem]], benchmarks: Mapping[str, Sequence[Problem]]
) -> tuple[dict[str, list[Problem]], list[DroppedProblem]]:
    """Drops training problems that overlap with a benchmark's question or contain a picture.

    Args:
        training: problems by data set.
        benchmarks: problems by benchmark.
    Returns:
        The clean problems by data set, and the dropped ones.
    """
    questions = [(name, problem) for name, problems in benchmarks.items() for problem in problems]
    index = ContaminationIndex(problem.question for _, problem in questions)
    clean: dict[str, list[Problem]] = {name: [] for name in training}
    dropped = []
    for name, problems in training.items():
        for problem in _show_progress(problems, f"{name}: overlap", "problems"):
            if _IMAGE in problem.question:
                dropped.append(DroppedProblem(name, problem.id, f"holds {_IMAGE}"))
            elif matches := index.find_matches(problem.question):
                benchmark, other = questions[matches[0].question]
                shared = " ".join(matches[0].ngram)
                dropped.append(
                    DroppedProblem(name, problem.id, "contaminated", benchmark, other.id, shared)
                )
            else:
                clean[name].append(problem)
    return clean, dropped


def build_row(
    benchmark: Benchmark, problem: Problem, mode: str, system_prompt: str
) -> dict[str, Any]:
    """Builds the row that OpenRLHF reads for a problem.

    OpenRLHF needs `--data.input_key prompt --data.label_key label --data.apply_chat_template`.

    Args:
        mode: train or eval, as in `sar.grading.label`.
        system_prompt: empty for none.
    """
    turns = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
    user_turn = f"{problem.question}{benchmark.joiner}{INSTRUCTION}"
    truth = problem.label
    label: dict[str, Any] = {"answer": truth.answer, "grader": truth.grader, "mode": mode}
    if truth.choices:
        label["choices"] = list(truth.choices)
    return {
        "prompt": [*turns, {"role": "user", "content": user_turn}],
        "label": json.dumps(label, ensure_ascii=False),
        "datasource": benchmark.name,
    }


def prepare_data(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes all files. Returns the manifest.

    Raises:
        UserError: a data set cannot be loaded, or every training problem is dropped.
    """
    parts, seed = arguments.output / "parts", arguments.seed
    seven = choose_benchmarks("all")
    benchmarks = {
        b.name: load_part(parts / f"benchmark-{b.name}.jsonl", b, arguments.benchmark_dir, 0, seed)
        for b in seven
    }
    training = {
        t.name: load_part(
            parts / f"train-{t.name}.jsonl", t, arguments.data_dir, arguments.cap, seed
        )
        for t in TRAINING_SETS
    }
    clean, dropped = remove_contaminated(training, benchmarks)
    if not any(clean.values()):
        raise UserError("no training problem is left: each one overlaps with a benchmark")
    evaluated = {
        b.name: sample_problems(benchmarks[b.name], arguments.eval_cap, seed) for b in seven
    }

    settings = ("seed", "cap", "eval_cap", "system_prompt")
    manifest: dict[str, Any] = {
        **{name: getattr(arguments, name) for name in settings},
        "instruction": INSTRUCTION,
        "ngram_words": NGRAM_WORDS,
    }
    for mode, sets, loaded, written, folder in (
        ("train", TRAINING_SETS, training, clean, arguments.data_dir),
        ("eval", seven, benchmarks, evaluated, arguments.benchmark_dir),
    ):
        rows = [
            build_row(one, problem, mode, arguments.system_prompt)
            for one in sets
            for problem in written[one.name]
        ]
        write_lines(arguments.output / f"{mode}.jsonl", shuffle_rows(rows, seed))
        manifest[mode] = {
            one.name: {
                "num_problems": len(loaded[one.name]),
                "num_written": len(written[one.name]),
                **_describe_source(one, folder),
            }
            for one in sets
        }
    manifest["dropped"] = list(map(asdict, dropped))
    write_atomically(arguments.output / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Writes JSON lines, and creates the folder. The file appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 with one line on standard error if the data cannot be prepared."""
    arguments = _make_parser().parse_args(argv)
    try:
        manifest = prepare_data(arguments)
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
        f"{num_contaminated:,} training problems dropped: they share {NGRAM_WORDS} consecutive "
        f"words, or a whole shorter problem, with a benchmark. {arguments.output}/manifest.json "
        "lists them."
    )
    return 0


def _describe_source(benchmark: Benchmark, data_dir: Path | None) -> dict[str, Any]:
    """Identifies what a data set is read from. Only a single file's entry shows changed content."""
    if data_dir is None:
        return {"source": asdict(benchmark.source)}
    path = data_dir / benchmark.file
    if not path.is_file():  # LogicBench is a tree of folders
        return {"folder": str(data_dir.resolve())}
    stat = path.stat()
    return {"file": str(path.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _parse_problem(values: Mapping[str, Any]) -> Problem:
    return Problem(values["id"], values["question"], parse_label(values["label"]))


def _show_progress(items: Iterable[Any], description: str, unit: str) -> Iterable[Any]:
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(items, desc=description, unit=f" {unit}", mininterval=0.5)
    return bar


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python recipes/prepare_data.py",
        description="Prepares training and evaluation prompts for OpenRLHF.",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the files")
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder with gsm8k.jsonl, math.jsonl and openr1.jsonl in the hub's columns (default: "
        "fetch from the hub)",
    )
    parser.add_argument(
        "--benchmark-dir",
        type=Path,
        help="folder with the seven benchmarks' files in the hub's columns (default: fetch from "
        "the hub)",
    )
    parser.add_argument(
        "--cap",
        type=number(0, kind=int),
        default=10_000,
        help="at most this many problems of a data set, 0 for all (%(default)s)",
    )
    parser.add_argument(
        "--eval-cap",
        type=number(0, kind=int),
        default=250,
        help="at most this many problems of a benchmark in eval.jsonl, 0 for all (%(default)s)",
    )
    parser.add_argument("--seed", type=number(0, 2**32 - 1, int), default=42, help="%(default)s")
    parser.add_argument(
        "--system-prompt",
        default=DEFAULT_SYSTEM_PROMPT,
        help="'' for none; the server's --system-prompt must be the same",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
