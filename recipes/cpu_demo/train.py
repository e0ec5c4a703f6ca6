"""One run: TRL's GRPOTrainer on a small model, rewarded by a server over HTTP.

    python -m recipes.cpu_demo.train --arm sar --seed 0 --model build/train-demo/start/model \
        --url http://127.0.0.1:5000/get_reward --output build/train-demo/sar-0

Departures from the paper (arXiv:2509.05489), besides the size of everything:
1. There is no KL loss. The paper's coefficient, 0.001, changes nothing in a run this short, and the
   reference model would take a quarter of its time.
2. The learning rate is 2.5e-4, not 1e-6, and falls to 0: the model has 2.6 million parameters, and
   the runs have few steps.
3. Losses are averaged over all tokens of a step, as OpenRLHF's are.
4. GDPO (arXiv:2601.05242) divides by the deviation over the batch's rollouts, not over its tokens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

from recipes.cpu_demo.plan import (
    DATA_SEED,
    FULL,
    MAX_PROBLEM_STEPS,
    Settings,
    parse_run,
)
from recipes.training_run import trainer
from recipes.training_run.run import Run
from recipes.training_run.trainer import TrainerSettings
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION, render_prompt


def train(run: Run, settings: Settings, url: str) -> None:
    """Trains one arm with one seed. Writes checkpoints, the final model and each step's numbers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # runs share the cores; a step is too small for two threads
    tokenizer = AutoTokenizer.from_pretrained(run.start_model)
    trainer.train(
        run,
        TrainerSettings(
            num_steps=settings.num_steps,
            prompts_per_step=settings.prompts_per_step,
            rollouts_per_prompt=settings.rollouts_per_prompt,
            learning_rate=settings.learning_rate,
            max_response_tokens=settings.max_response_tokens,
            save_every_steps=settings.save_every_steps,
            micro_batch_size=settings.prompts_per_step * settings.rollouts_per_prompt,
            on_gpu=False,
            gradient_checkpointing=False,
        ),
        url,
        AutoModelForCausalLM.from_pretrained(run.start_model, dtype=torch.float32),
        tokenizer,
        _make_rows(tokenizer, run.seed, settings),
    )


def _make_rows(tokenizer: Any, seed: int, settings: Settings) -> list[dict[str, str]]:
    """Makes the prompts of all steps. They depend on the seed, not on the arm."""
    num_rows = settings.num_steps * settings.prompts_per_step
    problems = generate(DATA_SEED + seed, held_out=False)
    chosen = (problem for problem in problems if problem.num_steps <= MAX_PROBLEM_STEPS)
    return [
        {
            "prompt": render_prompt(
                tokenizer, f"{problem.question} {INSTRUCTION}", DEFAULT_SYSTEM_PROMPT
            ),
            "label": str(problem.answer),
        }
        for problem in islice(chosen, num_rows)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    run, settings, url = parse_run("recipes.cpu_demo.train", FULL, argv)
    os.environ["HF_HUB_OFFLINE"] = "1"
    run.folder.mkdir(parents=True, exist_ok=True)
    run.steps_file.unlink(missing_ok=True)
    train(run, settings, url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
