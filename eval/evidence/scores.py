"""Scores responses and their changed copies with a model, and keeps the numbers in a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from eval.benchmarks.rows import read_jsonl_rows
from eval.errors import UserError
from eval.evidence.variants import HONEST, VARIANTS, Rollout, make_variants
from sar.errors import first_line
from sar.files import open_atomically
from sar.grading.label import parse_label
from sar.grading.processes.pool import GraderPool
from sar.grading.verdict import Verdict
from sar.perplexity import self_aligned_reward
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION, render_prompt
from sar.reward import Likelihood
from sar.scoring.base import LogprobScorer
from sar.tokenization import EncodedRollout, RolloutTokenizer

# Of an NLL in the file. SAR changes by less than 1e-6 with the digits left out.
_NLL_DECIMALS = 6


@dataclass(frozen=True)
class Score:
    """One variant of one rollout's response, scored and graded."""

    rollout: int
    """Line of the rollout in its file, from 0."""
    variant: str
    num_tokens: int
    nll_qa: float
    nll_a: float
    correctness: int

    @property
    def sar(self) -> float:
        return self_aligned_reward(self.nll_qa, self.nll_a)

    def reward(self, sar_weight: float) -> float:
        """What the server gives: correctness + weight x SAR."""
        return self.correctness + sar_weight * self.sar


def read_rollouts(path: Path, limit: int | None = None) -> list[Rollout]:
    """Reads JSON lines with `question`, `answer`, and `response_clean` or else `response`.

    Args:
        limit: reads no more than the first so many; None: all.
    Raises:
        UserError: a line is not such an object, or there is none.
        OSError: the file cannot be read.
    """
    rollouts = []
    for row in islice(read_jsonl_rows(path), limit):
        response = "response_clean" if "response_clean" in row.values else "response"
        texts = (row.get_text(field).strip() for field in ("question", response, "answer"))
        rollouts.append(Rollout(*texts))
    if not rollouts:
        raise UserError(f"{path}: no rollout in it")
    return rollouts


@dataclass(frozen=True)
class Task:
    """One variant of one rollout that is to be scored."""

    rollout: int
    variant: str


def plan_tasks(num_rollouts: int, num_changed: int) -> list[Task]:
    """All unchanged responses, then the changed copies of the first `num_changed` rollouts."""
    changed = [name for name in VARIANTS if name != HONEST]
    return [Task(index, HONEST) for index in range(num_rollouts)] + [
        Task(index, name) for index in range(min(num_changed, num_rollouts)) for name in changed
    ]


class Rater:
    """Scores and grades variants as the server does, with the recipes' prompt: their system
    prompt, the question and their instruction."""

    def __init__(
        self,
        rollouts: Sequence[Rollout],
        *,
        scorer: LogprobScorer,
        encoder: RolloutTokenizer,
        tokenizer: Any,
        graders: GraderPool,
    ) -> None:
        self._rollouts = rollouts
        self._scorer = scorer
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._graders = graders

    def rate(self, tasks: Sequence[Task]) -> list[Score]:
        """Scores of the tasks whose variant exists, in one call of the scorer."""
        variants = {
            index: make_variants(self._rollouts, index, self._tokenizer.eos_token or "")
            for index in {task.rollout for task in tasks}
        }
        items = []
        for task in tasks:
            response = variants[task.rollout].get(task.variant)
            if response is not None:
                items.append((task, *self._prepare(task.rollout, response)))
        sequences = [sequence for _, encoded, _ in items for sequence in encoded.sequences]
        logprobs = iter(self._scorer.response_logprobs(sequences))
        scores = []
        for task, encoded, verdict in items:
            own = [next(logprobs) for _ in encoded.sequences]
            likelihood = Likelihood.from_logprobs(encoded, own)
            score = Score(
                task.rollout,
                task.variant,
                likelihood.num_response_tokens,
                round(likelihood.nll_qa, _NLL_DECIMALS),
                round(likelihood.nll_a, _NLL_DECIMALS),
                int(verdict.result().correctness),
            )
            scores.append(score)
        return scores

    def _prepare(self, index: int, response: str) -> tuple[EncodedRollout, Future[Verdict]]:
        rollout = self._rollouts[index]
        user_turn = f"{rollout.question} {INSTRUCTION}"
        prompt = render_prompt(self._tokenizer, user_turn, DEFAULT_SYSTEM_PROMPT)
        text = self._encoder.make_graded_text(prompt, response)
        verdict = self._graders.submit(text, parse_label(rollout.label))
        return self._encoder.encode(prompt, response), verdict


_COLUMNS = tuple(field.name for field in fields(Score))


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Writes scores as CSV, whole or not at all."""
    with open_atomically(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(astuple(score) for score in scores)


def read_scores(path: Path) -> list[Score]:
    """Reads what `write_scores` wrote.

    Raises:
        UserError: the file holds something else.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != _COLUMNS:
            raise UserError(f"{path}: its first line is not {','.join(_COLUMNS)}")
        try:
            return [
                Score(int(r), name, int(tokens), float(qa), float(a), int(correctness))
                for r, name, tokens, qa, a, correctness in rows
            ]
        except ValueError as error:
            raise UserError(f"{path}, line {rows.line_num}: {first_line(error)}") from error
