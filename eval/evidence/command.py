"""python -m eval evidence --model FOLDER --rollouts FILE.jsonl --output FOLDER

Scores and grades responses of a file, and changed copies of them, with one model. Writes the
scores, the statistics, tables and figures. The same command continues after an interruption.

It is a command of eval because it computes intervals and draws figures, which need eval's
statistics and the extra `eval`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from eval.errors import UserError
from eval.evidence.effects import summarize
from eval.evidence.figures import draw_figures
from eval.evidence.scores import (
    Rater,
    Score,
    Task,
    plan_tasks,
    read_rollouts,
    read_scores,
    write_scores,
)
from eval.evidence.tables import make_tables
from eval.evidence.variants import Rollout
from eval.records import write_json
from sar.arguments import CommandParser, number
from sar.errors import MAX_MESSAGE_CHARS, one_line, shorten
from sar.files import write_atomically

if TYPE_CHECKING:
    from sar.grading.processes.pool import GraderPool

# Tasks scored in one call. Their sequences share forward passes, and what was scored is kept.
_BATCH_TASKS = 27
_GRADER_TIMEOUT_S = 5.0
_MAX_BATCH_TOKENS = 16_384


def main(argv: Sequence[str]) -> int:
    """Exit code: 0, or 2 for wrong flags, data or a model that cannot be scored."""
    arguments = _parse_args(argv)
    try:
        rollouts = read_rollouts(arguments.rollouts, arguments.limit)
        arguments.output.mkdir(parents=True, exist_ok=True)
        _refuse_other_inputs(arguments)
        num_changed = len(rollouts) if arguments.changed is None else arguments.changed
        tasks = plan_tasks(len(rollouts), num_changed)
        scores = score_missing(rollouts, tasks, arguments.model, arguments.output / "scores.csv")
        write_report(scores, arguments.output)
    except (ValueError, OSError) as error:
        message = shorten(str(error), MAX_MESSAGE_CHARS)
        print(f"python -m eval evidence: {message}", file=sys.stderr)
        return 2
    return 0


def score_missing(
    rollouts: Sequence[Rollout], tasks: Sequence[Task], model: str, file: Path
) -> list[Score]:
    """Scores the tasks that the file lacks, and adds them to it a batch at a time.

    Returns:
        All scores of the file, in the order of `tasks`.
    """
    from tqdm import tqdm

    found = {Task(s.rollout, s.variant): s for s in (read_scores(file) if file.exists() else ())}
    missing = [task for task in tasks if task not in found]
    if missing:
        rater, graders = _make_rater(rollouts, model)
        with closing(graders), tqdm(total=len(missing), desc="scoring", disable=None) as bar:
            for start in range(0, len(missing), _BATCH_TASKS):
                batch = missing[start : start + _BATCH_TASKS]
                found |= {Task(s.rollout, s.variant): s for s in rater.rate(batch)}
                write_scores(file, [found[task] for task in tasks if task in found])
                bar.update(len(batch))
    return [found[task] for task in tasks if task in found]


def write_report(scores: Sequence[Score], folder: Path) -> None:
    """Writes summary.json, tables.md and the figures, and prints the tables."""
    summary = summarize(scores)
    write_json(folder / "summary.json", summary)
    tables = "\n".join(make_tables(summary).values())
    write_atomically(folder / "tables.md", tables)
    draw_figures(summary, scores, folder)
    print(tables, end="")


def _make_rater(rollouts: Sequence[Rollout], model: str) -> tuple[Rater, GraderPool]:
    """Loads the model as the server does, in float32 on a CPU.

    Raises:
        UserError: the model cannot be loaded.
    """
    from transformers import AutoTokenizer

    from sar.grading.processes.pool import GraderPool
    from sar.prompts import DEFAULT_SYSTEM_PROMPT
    from sar.scoring.transformers_scorer import TransformersScorer
    from sar.tokenization import RolloutTokenizer

    try:
        scorer = TransformersScorer.from_pretrained(
            model, dtype="float32", max_batch_tokens=_MAX_BATCH_TOKENS
        )
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception as error:  # a broken folder raises many types
        raise UserError(f"cannot load --model {model}: {one_line(error)}") from error
    encoder = RolloutTokenizer(
        tokenizer,
        system_prompt=DEFAULT_SYSTEM_PROMPT,
        max_context_tokens=scorer.max_context_tokens,
    )
    graders = GraderPool(1, _GRADER_TIMEOUT_S)
    rater = Rater(rollouts, scorer=scorer, encoder=encoder, tokenizer=tokenizer, graders=graders)
    return rater, graders


def _refuse_other_inputs(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UserError: the output folder has scores of another model or of other rollouts.
    """
    digest = hashlib.sha256(arguments.rollouts.read_bytes()).hexdigest()
    inputs = {"model": Path(arguments.model).name, "rollouts_sha256": digest}
    file = arguments.output / "inputs.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != inputs:
        raise UserError(
            f"{arguments.output} has scores of another model or of other rollouts: choose another "
            "--output"
        )
    write_json(file, inputs)


def _parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="python -m eval evidence",
        description="Shows what SAR pays a model's responses, and changed copies of them.",
    )
    parser.add_argument("--model", required=True, help="a local folder or a Hugging Face id")
    parser.add_argument(
        "--rollouts",
        required=True,
        type=Path,
        metavar="FILE.jsonl",
        help="JSON lines with question, response and answer",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--limit", type=number(1, kind=int), help="read no more than so many rollouts"
    )
    parser.add_argument(
        "--changed",
        type=number(1, kind=int),
        help="change the responses of so many rollouts, from the first (default: all)",
    )
    return parser.parse_args(argv)
