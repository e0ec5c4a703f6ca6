"""A policy that pads: what the demo's training starts from.

    python -m recipes.cpu_demo.verbose --output build/train-demo/start/model

The bundled model is nearly as short as its problems allow, and is wrong more often when it pads, so
that correctness alone teaches it to be short: there would be nothing to see. This one is trained on
with right responses, three in four of them with remarks before and after the steps. They cost it no
correctness, which is how reasoning models are wordy.
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

from recipes.cpu_demo.save import save
from sar.models import BUNDLED_MODEL
from sar.models.phrases import CLOSINGS, ITEMS, OPENINGS
from sar.models.problems import ArithmeticProblem, generate

_PADDED_SHARE = 0.75
_LEARNING_RATE_SCALE = 0.4  # it is to change its manner, not what it knows
_SEED = 30_000  # neither the bundled model's problems nor those of the runs


def make(output: Path, num_steps: int) -> None:
    """Trains the bundled model on, and saves it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sar.models.train_demo import ROWS_PER_BATCH, draw_sample, train

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # nothing else runs yet
    torch.manual_seed(_SEED)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    rng = random.Random(_SEED)
    problems = islice(generate(_SEED, held_out=False), num_steps * ROWS_PER_BATCH)
    samples = [
        draw_sample(tokenizer, with_remarks(problem, rng), rng, _PADDED_SHARE)
        for problem in problems
    ]
    train(model, samples, num_steps, tokenizer.pad_token_id, _LEARNING_RATE_SCALE)
    save(model.eval(), tokenizer, output)


def with_remarks(problem: ArithmeticProblem, rng: random.Random) -> ArithmeticProblem:
    """The problem with a padded response whose steps are left together."""
    steps, _, answer = problem.concise.rpartition(" Answer: ")
    remarks = [rng.sample(kind, 2) for kind in (OPENINGS, CLOSINGS)]
    items = next(items for items in ITEMS if items in problem.question)
    opening, closing = (" ".join(r).format(items=items, answer=answer) for r in remarks)
    return replace(problem, padded=f"{opening} {steps} {closing} Answer: {answer}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.cpu_demo.verbose", description="Makes a policy that pads."
    )
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--steps", type=int, required=True)
    arguments = parser.parse_args(argv)
    make(arguments.output, arguments.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
