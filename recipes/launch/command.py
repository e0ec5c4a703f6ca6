"""OpenRLHF's command for one run.

Departures from the paper (arXiv:2509.05489) and its authors' scripts:
1. SAR comes from the model that a server has loaded, not from the policy of the same step, unless
   the server follows the policy's checkpoints. With ON_POLICY=1 SAR comes from the policy itself.
2. Training makes equal passes over the data in whole batches: with three passes, 500 steps become
   501.
3. DeepSpeed ZeRO with packed sequences trains the model, not FSDP.
4. GRPO averages the loss over all tokens of an update. The authors sum over a response's tokens and
   divide by a constant: that also weights all tokens equally, at another scale.
5. PPO samples six responses to a prompt, as the paper says. The authors' PPO scripts keep verl's
   default of one (N_SAMPLES=1; a mini-batch is then 64 rollouts).
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.launch.settings import (
    PROMPTS_PER_STEP,
    RESPONSE_TOKENS,
    ROLLOUT_TOKENS,
    LaunchError,
    Settings,
)

# Not resolved: a path through a link may be the one that all nodes of a cluster have.
RECIPES = Path(__file__).absolute().parents[1]


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


def build_flags(algorithm: str, model: str, settings: Settings) -> dict[str, Any]:
    """OpenRLHF's flags and their values. True: the flag has no value; a tuple: it has several.

    Raises:
        LaunchError: the data is missing, or too small for one step.
    """
    num_passes, prompts_per_pass = plan_passes(Path(settings.data), settings.steps)
    name = f"{algorithm}-{model}"
    if settings.sar_weight:
        name += f"-sar{settings.sar_weight}"
    reward: dict[str, Any] = {"--reward.remote_url": settings.reward_urls}
    if settings.on_policy:
        name += "-on-policy"
        reward = {"--train.agent_func_path": RECIPES / "openrlhf_agent.py"}
    data = Path(settings.data).resolve()
    output = Path(settings.output or f"runs/{name}").resolve()
    return {
        "--actor.model_name_or_path": settings.model_path,
        **reward,
        **(_build_grpo_flags(settings) if algorithm == "grpo" else _build_ppo_flags(settings)),
        "--data.prompt_dataset": data / "train.jsonl", "--data.prompt_split": "train",
        "--data.input_key": "prompt", "--data.label_key": "label",
        "--data.apply_chat_template": True,
        "--data.max_samples": prompts_per_pass, "--data.max_len": ROLLOUT_TOKENS,
        "--eval.dataset": data / "eval.jsonl", "--eval.split": "train",
        "--eval.steps": settings.eval_steps, "--eval.temperature": 0,
        "--eval.n_samples_per_prompt": 1,

        "--rollout.batch_size": PROMPTS_PER_STEP,
        "--rollout.n_samples_per_prompt": settings.n_samples,
        "--rollout.max_new_tokens": RESPONSE_TOKENS,
        "--rollout.temperature": 1, "--rollout.top_p": 1,
        "--train.batch_size": settings.rollouts_per_update,
        "--train.num_episodes": num_passes, "--train.max_epochs": 1, "--train.seed": settings.seed,
        "--actor.adam.lr": "1e-6", "--actor.adam.betas": (0.9, 0.999),
        "--actor.adam.weight_decay": 0.01,
        "--actor.lr_scheduler": "constant", "--actor.lr_warmup_ratio": 0,
        "--actor.eps_clip": 0.2, "--actor.loss_agg_mode": "token-mean",

        "--actor.num_nodes": settings.num_nodes,
        "--actor.num_gpus_per_node": settings.gpus_per_node,
        "--actor.gradient_checkpointing_enable": True,
        "--train.colocate_all": True, "--ds.enable_sleep": True,
        "--ds.zero_stage": settings.zero_stage, "--ds.param_dtype": "bf16",
        "--ds.attn_implementation": "flash_attention_2", "--ds.packing_samples": True,
        "--train.dynamic_batch_enable": True,
        "--train.max_tokens_per_gpu": settings.tokens_per_gpu,
        "--rollout.max_tokens_per_gpu": settings.tokens_per_gpu,
        "--vllm.num_engines": settings.num_gpus // settings.tensor_parallel,
        "--vllm.tensor_parallel_size": settings.tensor_parallel,
        "--vllm.gpu_memory_utilization": settings.vllm_memory, "--vllm.enable_sleep": True,

        "--ckpt.path": output / "checkpoints", "--ckpt.output_dir": output / "final",
        "--ckpt.save_steps": settings.save_steps, "--ckpt.save_hf": True, "--ckpt.max_num": 2,
        "--ckpt.load_enable": True, "--ckpt.best_metric_key": "none",
        "--logger.tensorboard_dir": output / "tensorboard",
    }  # fmt: skip


def _build_grpo_flags(settings: Settings) -> dict[str, Any]:
    return {
        # Subtracts the group's mean reward, and does not divide by its standard deviation.
        "--algo.advantage.estimator": "dr_grpo",
        "--algo.kl.use_loss": True, "--algo.kl.estimator": "k3", "--algo.kl.init_coef": 0.001,
        "--ref.num_nodes": settings.num_nodes, "--ref.num_gpus_per_node": settings.gpus_per_node,
    }  # fmt: skip


def _build_ppo_flags(settings: Settings) -> dict[str, Any]:
    return {
        "--algo.advantage.estimator": "gae",
        "--algo.advantage.gamma": 1, "--algo.advantage.lambd": 1,
        "--algo.kl.init_coef": 0,  # no KL, and so no reference model
        "--critic.model_name_or_path": settings.model_path,
        "--critic.num_nodes": settings.num_nodes,
        "--critic.num_gpus_per_node": settings.gpus_per_node,
        "--critic.adam.lr": "2e-6", "--critic.adam.betas": (0.9, 0.999),
        "--critic.adam.weight_decay": 0.01,
        "--critic.lr_scheduler": "constant", "--critic.lr_warmup_ratio": 0,
        "--critic.value_clip": 0.5,
    }  # fmt: skip


def build_command(
    settings: Settings, flags: Mapping[str, Any], more_flags: Sequence[str]
) -> list[str]:
    """The command that trains, on this machine or as a job of a Ray cluster."""
    command = [settings.python, "-m", "openrlhf.cli.train_ppo_ray"]
    for flag, value in flags.items():
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        command += [flag, *map(str, values)]
    command += more_flags
    agent = _build_agent_environ(settings) if settings.on_policy else {}
    if settings.ray_address:
        job = ["ray", "job", "submit", "--address", settings.ray_address]
        if agent:  # workers of a running cluster have its environment, not this process's
            job += ["--runtime-env-json", json.dumps({"env_vars": agent}, ensure_ascii=False)]
        return [*job, "--", *command]
    if agent:
        return ["env", *(f"{name}={value}" for name, value in agent.items()), *command]
    return command


def _build_agent_environ(settings: Settings) -> dict[str, str]:
    """The environment variables that openrlhf_agent.py reads."""
    environ = {
        "REWARD_URLS": settings.reward_urls,
        "SAR_WEIGHT": settings.sar_weight,
        "PYTHONPATH": build_python_path(),
    }
    if settings.system_prompt is not None:
        environ["SYSTEM_PROMPT"] = settings.system_prompt
    return environ


def build_preflight(settings: Settings, flags: Mapping[str, Any]) -> list[str]:
    """The command that checks every reward server before the training."""
    command = [settings.python, str(RECIPES / "preflight.py"), "--model", settings.model_path]
    command += ["--data", str(flags["--data.prompt_dataset"])]
    for url in settings.reward_urls.split(","):
        command += ["--url", url]
    if settings.on_policy:
        return [*command, "--on-policy"]
    if settings.sar_weight:
        command += ["--sar-weight", settings.sar_weight]
    if settings.server_model:
        command += ["--server-model", settings.server_model]
    return command


def build_python_path() -> str:
    """PYTHONPATH with this repository in front."""
    return ":".join(filter(None, (str(RECIPES.parent), os.environ.get("PYTHONPATH"))))


def format_command(command: Sequence[str]) -> str:
    """The command as one types it, one flag a line, with the keys in URLs hidden."""
    words = [shlex.quote(re.sub("//[^/@,]*@", "//***@", word)) for word in command]
    return " ".join(f"\\\n    {word}" if word.startswith("--") else word for word in words)
