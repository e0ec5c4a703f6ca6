"""The prompts of a run: the first rows of DATA/train.jsonl.

OpenRLHF's `--data.max_samples` would choose them too, but it also cuts the evaluation set.
"""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

from recipes.launch.settings import PROMPTS_PER_STEP, LaunchError


def plan_passes(data: Path, num_steps: int) -> tuple[int, int]:
    """Splits the steps into equal passes over the data: OpenRLHF counts passes, not steps.

    Each pass has a whole number of steps, so the passes may have more than `num_steps` together.
    The excess is less than one step per pass.

    Returns:
        The number of passes, and the number of prompts that each one uses.
    Raises:
        LaunchError: the data is missing, or too small for one step.
    """
    for name in ("train.jsonl", "eval.jsonl"):
        file = data / name
        if not file.is_file() or not file.stat().st_size:
            raise LaunchError(
                f"DATA={data} has no {name}; make it: "
                f"python recipes/prepare_data.py --output {data}"
            )
    with (data / "train.jsonl").open("rb") as lines:
        num_prompts = sum(1 for _ in lines)
    steps_in_data = num_prompts // PROMPTS_PER_STEP
    if not steps_in_data:
        raise LaunchError(
            f"{data}/train.jsonl has {num_prompts} prompts, and a step takes {PROMPTS_PER_STEP}"
        )
    num_passes = math.ceil(num_steps / steps_in_data)
    return num_passes, math.ceil(num_steps / num_passes) * PROMPTS_PER_STEP


def write_prompts(data: Path, num_prompts: int, target: Path) -> None:
    """Writes the first rows of DATA/train.jsonl to a file.

    Raises:
        LaunchError: the file cannot be written.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (data / "train.jsonl").open("rb") as rows, partial.open("wb") as file:
            file.writelines(islice(rows, num_prompts))
        partial.replace(target)
    except OSError as error:
        raise LaunchError(f"cannot write {target}: {error.strerror}") from error
