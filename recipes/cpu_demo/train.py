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

import json
import os
import shutil
import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

from recipes.adapters.trl import RemoteReward
from recipes.cpu_demo.plan import (
    DATA_SEED,
    FULL,
    MAX_PROBLEM_STEPS,
    Run,
    Settings,
    parse_run,
)
from recipes.cpu_demo.save import save_model
from sar.models.problems import generate
from sar.prompts import DEFAULT_SYSTEM_PROMPT, INSTRUCTION, render_prompt

_NUM_KEPT_CHECKPOINTS = 2


def train(run: Run, settings: Settings, url: str) -> None:
    """Trains one arm with one seed. Writes checkpoints, the final model and each step's numbers."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)  # runs share the cores; a step is too small for two threads
    tokenizer = AutoTokenizer.from_pretrained(run.start_model)
    model = AutoModelForCausalLM.from_pretrained(run.start_model, dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(_make_rows(tokenizer, run.seed, settings)),
        reward_funcs=RemoteReward(url, tokenizer, field=run.arm.field),
        args=GRPOConfig(
            output_dir=str(run.folder / "trl"),
            max_steps=settings.num_steps,
            per_device_train_batch_size=settings.prompts_per_step * settings.rollouts_per_prompt,
            num_generations=settings.rollouts_per_prompt,
            max_completion_length=settings.max_response_tokens,
            temperature=1.0,
            # Dr. GRPO's advantages: subtract the group's mean, do not divide by its standard
            # deviation. GDPO's end with a division by the batch's.
            scale_rewards="batch" if run.arm.is_gdpo else "none",
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
    trainer.add_callback(_make_recorder(run, settings, tokenizer))
    trainer.train()
    save_model(model, tokenizer, run.final)


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


def _make_recorder(run: Run, settings: Settings, tokenizer: Any) -> Any:
    """A callback that writes each step's numbers and, every few steps, a checkpoint."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any
        ) -> None:
            if "reward" not in logs:  # TRL's summary at the end
                return
            with run.steps_file.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            step = state.global_step
            if step % settings.save_every_steps:
                return
            save_model(model, tokenizer, run.checkpoints / f"global_step{step}_hf")
            old = step - _NUM_KEPT_CHECKPOINTS * settings.save_every_steps
            if old > 0:
                shutil.rmtree(run.checkpoints / f"global_step{old}_hf")

    return Recorder()


def main(argv: Sequence[str] | None = None) -> int:
    run, settings, url = parse_run("recipes.cpu_demo.train", FULL, argv)
    os.environ["HF_HUB_OFFLINE"] = "1"
    run.folder.mkdir(parents=True, exist_ok=True)
    run.steps_file.unlink(missing_ok=True)
    train(run, settings, url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
