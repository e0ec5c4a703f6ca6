"""Trains the demo's start model: a model that pads its responses with remarks.

    python -m recipes.cpu_demo.verbose --output build/train-demo/start/model --steps 160

The bundled model itself would not do. It writes nearly as little as its problems allow, and it is
wrong more often when it pads, so correctness alone teaches it to be short. The start model is the
bundled model after further training on right responses. Three in four of these have remarks before
and after the steps. The remarks cost no correctness, just as in wordy reasoning models.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from recipes.training_run.save import save_model
from sar.models import BUNDLED_MODEL
from sar.models.phrases import CLOSINGS, ITEMS, OPENINGS
from sar.models.problems import ArithmeticProblem, generate

_PADDED_SHARE = 0.75
_LEARNING_RATE_SCALE = 0.4  # small, to change the style and not the knowledge
_SEED = 30_000  # other problems than the bundled model's and the runs'


def train_verbose_model(output: Path, num_steps: int) -> None:
    """Trains the bundled model further and saves it to `output`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sar.models.train_demo import ROWS_PER_BATCH, draw_sample, train

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # no run has started yet
    torch.manual_seed(_SEED)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    rng = random.Random(_SEED)
    problems = islice(generate(_SEED, held_out=False), num_steps * ROWS_PER_BATCH)
    samples = [
        draw_sample(tokenizer, add_remarks(problem, rng), rng, _PADDED_SHARE)
        for problem in problems
    ]
    train(model, samples, num_steps, tokenizer.pad_token_id, _LEARNING_RATE_SCALE)
    save_model(model.eval(), tokenizer, output)


def add_remarks(problem: ArithmeticProblem, rng: random.Random) -> ArithmeticProblem:
    """Returns the problem with a padded response: remarks before and after its steps."""
    steps, _, answer = problem.concise.rpartition(" Answer: ")
    remarks = [rng.sample(kind, 2) for kind in (OPENINGS, CLOSINGS)]
    items = next(items for items in ITEMS if items in problem.question)
    opening, closing = (" ".join(r).format(items=items, answer=answer) for r in remarks)
    return replace(problem, padded=f"{opening} {steps} {closing} Answer: {answer}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.cpu_demo.verbose",
        description="Trains the demo's start model, which pads its responses.",
    )
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--steps", type=int, required=True)
    arguments = parser.parse_args(argv)
    train_verbose_model(arguments.output, arguments.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
