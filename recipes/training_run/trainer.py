"""Trains one run with TRL's GRPOTrainer, rewarded by a server over HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipes.adapters.trl import RemoteReward
from recipes.training_run.run import Run
from recipes.training_run.save import save_model

_NUM_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class TrainerSettings:
    """What GRPOTrainer is told, besides what all runs have in common."""

    num_steps: int
    prompts_per_step: int
    rollouts_per_prompt: int
    learning_rate: float
    max_response_tokens: int
    save_every_steps: int
    """Steps between checkpoints. The server follows them."""
    micro_batch_size: int
    """Rollouts in one forward and backward pass. It divides the rollouts of a step."""
    on_gpu: bool
    """True: the GPU, in bfloat16 with float32 weights. False: the CPU, in float32."""
    gradient_checkpointing: bool
    """Less memory, and a third more time."""


def train(
    run: Run,
    settings: TrainerSettings,
    url: str,
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
) -> None:
    """Trains a model. Writes checkpoints, the final model and each step's numbers.

    Args:
        url: the reward server's.
        model: with float32 weights.
        rows: prompts and labels, in the order of training.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    num_rollouts = settings.prompts_per_step * settings.rollouts_per_prompt
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(list(rows)),
        reward_funcs=RemoteReward(url, tokenizer, field=run.arm.field),
        args=GRPOConfig(
            output_dir=str(run.folder / "trl"),
            max_steps=settings.num_steps,
            per_device_train_batch_size=settings.micro_batch_size,
            gradient_accumulation_steps=num_rollouts // settings.micro_batch_size,
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
            gradient_checkpointing=settings.gradient_checkpointing,
            bf16=settings.on_gpu,
            use_cpu=not settings.on_gpu,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
    )
    trainer.add_callback(_make_recorder(run, settings, tokenizer))
    trainer.train()
    save_model(model, tokenizer, run.final)


def _make_recorder(run: Run, settings: TrainerSettings, tokenizer: Any) -> Any:
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
