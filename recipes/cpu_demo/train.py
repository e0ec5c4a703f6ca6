"""One run: TRL's GRPOTrainer on a small model, rewarded by a server over HTTP.

    python -m recipes.cpu_demo.train --arm sar --seed 0 --model build/train-demo/start/model \
        --url http://127.0.0.1:5000/get_reward --output build/train-demo/sar-0

Departures from the paper (arXiv:2509.05489), besides the size of everything:
1. No KL loss: its coefficient there, 0.001, changes nothing in a run this short, and the reference
   model would cost a quarter of it.
2. A learning rate of 2.5e-4 and not 1e-6, falling to 0: 2.6 million parameters, and few steps.
3. Losses are averaged over all tokens of a step, as OpenRLHF's are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from recipes.adapters.trl import RemoteReward
from recipes.cpu_demo.plan import ARMS, FULL, Run, Settings
from recipes.cpu_demo.save import save
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION, render_prompt

_KEPT_CHECKPOINTS = 2
_DATA_SEED = 20_000  # not the bundled model's own
# Of problems of three steps it gets every other one wrong: noise, in which 4,000 rollouts show no
# difference in length. The paper has eighty times as many.
_MAX_PROBLEM_STEPS = 2


def train(run: Run, settings: Settings, url: str) -> None:
    """Trains one arm with one seed; leaves checkpoints, the final model and the steps' numbers."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)  # several runs share the cores, and a step is too small for two
    tokenizer = AutoTokenizer.from_pretrained(run.start)
    model = AutoModelForCausalLM.from_pretrained(run.start, dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(_rows(tokenizer, run.seed, settings)),
        reward_funcs=RemoteReward(url, tokenizer, field=run.arm.field),
        args=GRPOConfig(
            output_dir=str(run.folder / "trl"),
            max_steps=settings.num_steps,
            per_device_train_batch_size=settings.prompts_per_step * settings.rollouts_per_prompt,
            num_generations=settings.rollouts_per_prompt,
            max_completion_length=settings.max_response_tokens,
            temperature=1.0,
            # Dr. GRPO's advantages: the group's mean is subtracted, and nothing is divided by its
            # standard deviation.
            scale_rewards="none",
            loss_type="dapo",
            beta=0.0,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="linear",
            seed=run.seed,
            shuffle_dataset=False,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
    )
    trainer.add_callback(_recorder(run, settings, tokenizer))
    trainer.train()
    save(model, tokenizer, run.final)


def _rows(tokenizer: Any, seed: int, settings: Settings) -> list[dict[str, str]]:
    """The prompts of all steps; the same for all arms of a seed."""
    num_rows = settings.num_steps * settings.prompts_per_step
    problems = generate(_DATA_SEED + seed, held_out=False)
    chosen = (problem for problem in problems if problem.num_steps <= _MAX_PROBLEM_STEPS)
    return [
        {
            "prompt": render_prompt(
                tokenizer, f"{problem.question} {INSTRUCTION}", DEFAULT_SYSTEM_PROMPT
            ),
            "label": str(problem.answer),
        }
        for problem in islice(chosen, num_rows)
    ]


def _recorder(run: Run, settings: Settings, tokenizer: Any) -> Any:
    """Writes each step's numbers and, every few steps, a checkpoint for the server to follow."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any
        ) -> None:
            if "reward" not in logs:  # the summary at the end
                return
            with run.steps_file.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            step = state.global_step
            if step % settings.save_every_steps:
                return
            save(model, tokenizer, run.checkpoints / f"global_step{step}_hf")
            old = step - _KEPT_CHECKPOINTS * settings.save_every_steps
            if old > 0:
                shutil.rmtree(run.checkpoints / f"global_step{old}_hf")

    return Recorder()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.cpu_demo.train", description="Trains one arm with one seed."
    )
    parser.add_argument("--arm", required=True, choices=[arm.name for arm in ARMS])
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--model", required=True, type=Path, help="what training starts from")
    parser.add_argument("--url", required=True, help="of a server that follows OUTPUT/checkpoints")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument(
        "--settings",
        type=lambda text: Settings(**json.loads(text)),
        default=FULL,
        help="a JSON object, as in settings.json (default: those of the whole demo)",
    )
    arguments = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"
    (arm,) = (arm for arm in ARMS if arm.name == arguments.arm)
    run = Run(arm, arguments.seed, arguments.output, arguments.model)
    run.folder.mkdir(parents=True, exist_ok=True)
    run.steps_file.unlink(missing_ok=True)
    train(run, arguments.settings, arguments.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
