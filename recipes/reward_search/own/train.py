"""One run: TRL's GRPOTrainer on a model and data of one's own, rewarded by a server over HTTP.

    python -m recipes.reward_search.own.train --reward reward.toml --seed 0 --model MODEL \
        --train-data train.jsonl --url http://127.0.0.1:5000/get_reward --output DIR --settings JSON

Departures from the paper (arXiv:2509.05489), besides the number of steps and their size:
1. There is no KL loss, so that no reference model takes memory. The paper's coefficient is 0.001.
2. The learning rate falls to 0.
3. Losses are averaged over all tokens of a step, as OpenRLHF's are, and advantages are not divided
   by the group's standard deviation (Dr. GRPO).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.reward_search.own.data import draw_rows, make_prompt, read_train_data
from recipes.training_run import trainer
from recipes.training_run.run import Arm, Run, arm_from_file
from recipes.training_run.trainer import TrainerSettings
from sar.arguments import number


def train(
    run: Run, settings: TrainerSettings, url: str, train_data: str, memory_share: float
) -> None:
    """Trains the model in `run.start_model`.

    Args:
        memory_share: of the GPU's memory, at most.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if settings.on_gpu:
        # torch gives memory that it does not use back before it exceeds its share, so the reward
        # server on the same GPU keeps the rest.
        torch.cuda.set_per_process_memory_fraction(memory_share)
    data = read_train_data(train_data)
    tokenizer = AutoTokenizer.from_pretrained(run.start_model)
    num_rows = settings.num_steps * settings.prompts_per_step
    rows = [
        {"prompt": make_prompt(tokenizer, one.question, data.system_prompt), "label": one.label}
        for one in draw_rows(data.rows, num_rows, run.seed)
    ]
    # In bfloat16, weights would not change by steps as small as a learning rate of 1e-6 makes.
    model = AutoModelForCausalLM.from_pretrained(run.start_model, dtype=torch.float32)
    trainer.train(run, settings, url, model, tokenizer, rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.reward_search.own.train", description="Trains one run."
    )
    reward = parser.add_mutually_exclusive_group(required=True)
    reward.add_argument("--reward", type=Path, metavar="FILE", help="what the server runs")
    reward.add_argument("--sar-weight", type=float, help="the server's, without a reward file")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--model", required=True, type=Path, help="folder of the model")
    parser.add_argument("--train-data", required=True, metavar="FILE")
    parser.add_argument("--url", required=True, help="server that follows OUTPUT/checkpoints")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--memory-share", type=number(0.01, 1), default=1.0, help="of the GPU's")
    parser.add_argument(
        "--settings",
        required=True,
        type=lambda text: TrainerSettings(**json.loads(text)),
        help="JSON object with the fields of TrainerSettings",
    )
    given = parser.parse_args(argv)
    arm = Arm("sar", "SAR", given.sar_weight, "reward", num_seeds=1)
    if given.reward:
        arm = arm_from_file(given.reward, given.reward.stem)
    run = Run(arm, given.seed, given.output.resolve(), given.model)
    run.folder.mkdir(parents=True, exist_ok=True)
    run.steps_file.unlink(missing_ok=True)
    train(run, given.settings, given.url, given.train_data, given.memory_share)
    return 0


if __name__ == "__main__":
    sys.exit(main())
