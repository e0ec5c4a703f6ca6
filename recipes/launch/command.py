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

import argparse
import json
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


def choose_output(algorithm: str, model: str, settings: Settings) -> Path:
    """The folder of the run. The default's name tells runs apart."""
    name = f"{algorithm}-{model}"
    if settings.sar_weight:
        name += f"-sar{settings.sar_weight}"
    if settings.reward:
        name += f"-{Path(settings.reward).stem}"
    if settings.on_policy:
        name += "-on-policy"
    return Path(settings.output or f"runs/{name}").resolve()


def build_flags(
    algorithm: str, settings: Settings, output: Path, num_passes: int
) -> dict[str, Any]:
    """OpenRLHF's flags and their values. True: the flag has no value; a tuple: it has several.

    Args:
        output: the run's folder. It will hold train.jsonl, and the model with PLAIN_COPY=1.
        num_passes: passes over train.jsonl.
    """
    reward: dict[str, Any] = {"--reward.remote_url": settings.reward_urls}
    if settings.on_policy:
        reward = {"--train.agent_func_path": RECIPES / "openrlhf_agent.py"}
    trained_model = settings.model_path
    if settings.plain_copy:  # the name stays, because the server's model must have the same
        name = os.path.basename(os.path.abspath(settings.model_path))  # of "." and "..", too
        trained_model = str(output / "model" / name)
    return {
        "--actor.model_name_or_path": trained_model,
        **reward,
        **(
            _build_grpo_flags(settings) if algorithm == "grpo"
            else _build_ppo_flags(settings, trained_model)
        ),
        "--data.prompt_dataset": output / "train.jsonl", "--data.prompt_split": "train",
        "--data.input_key": "prompt", "--data.label_key": "label",
        "--data.apply_chat_template": True,
        "--data.max_len": ROLLOUT_TOKENS,
        "--eval.dataset": Path(settings.data).resolve() / "eval.jsonl", "--eval.split": "train",
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
        # The authors train with verl's dual clip of 3. OpenRLHF's default is none.
        "--actor.eps_clip": 0.2, "--actor.dual_clip": 3, "--actor.loss_agg_mode": "token-mean",

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


def _build_ppo_flags(settings: Settings, model: str) -> dict[str, Any]:
    return {
        "--algo.advantage.estimator": "gae",
        "--algo.advantage.gamma": 1, "--algo.advantage.lambd": 1,
        "--algo.kl.init_coef": 0,  # no KL, and so no reference model
        "--critic.model_name_or_path": model,
        "--critic.num_nodes": settings.num_nodes,
        "--critic.num_gpus_per_node": settings.gpus_per_node,
        "--critic.adam.lr": "2e-6", "--critic.adam.betas": (0.9, 0.999),
        "--critic.adam.weight_decay": 0.01,
        "--critic.lr_scheduler": "constant", "--critic.lr_warmup_ratio": 0,
        "--critic.value_clip": 0.5,
    }  # fmt: skip


def adapt_flags(flags: dict[str, Any], more_flags: Sequence[str]) -> list[str]:
    """Removes flags that OpenRLHF refuses beside the user's.

    Returns:
        Lines for the user, about what the user's flags change.
    Raises:
        LaunchError: the user's flags contradict each other.
    """
    notes = []
    if "--train.async_enable" in more_flags:
        if "--vllm.enable_sleep" in more_flags:
            raise LaunchError(
                "OpenRLHF refuses --train.async_enable with --vllm.enable_sleep; leave one out"
            )
        del flags["--vllm.enable_sleep"]
        num_engines = find_value(flags, more_flags, "--vllm.num_engines")
        size = find_value(flags, more_flags, "--vllm.tensor_parallel_size")
        notes.append(
            f"with --train.async_enable vLLM has GPUs of its own: {num_engines} x {size} "
            "(--vllm.num_engines, TENSOR_PARALLEL) beside the NUM_NODES x GPUS_PER_NODE that "
            "train. Ray waits until the machine has as many"
        )
    if any(word.partition("=")[0] == "--train.agent_func_path" for word in more_flags):
        notes.append(
            "with --train.agent_func_path OpenRLHF asks no reward server; the agent gives the "
            "rewards"
        )
    return notes


def find_value(flags: Mapping[str, Any], more_flags: Sequence[str], flag: str) -> str:
    """The value that OpenRLHF takes: the user's last one, else the recipe's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="value", default=str(flags[flag]))
    return str(parser.parse_known_args(more_flags)[0].value)


def build_command(
    settings: Settings, flags: Mapping[str, Any], more_flags: Sequence[str]
) -> list[str]:
    """The command that trains, on this machine or as a job of a Ray cluster.

    Raises:
        LaunchError: the job's shell would change a word of the command.
    """
    command = [settings.python, "-m", "openrlhf.cli.train_ppo_ray"]
    for flag, value in flags.items():
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        command += [flag, *map(str, values)]
    command += more_flags
    agent = _build_agent_environ(settings) if settings.on_policy else {}
    if settings.ray_address:
        _refuse_shell_characters(command)
        job = ["ray", "job", "submit", "--address", settings.ray_address]
        if agent:  # workers of a running cluster have its environment, not this process's
            job += ["--runtime-env-json", json.dumps({"env_vars": agent}, ensure_ascii=False)]
        return [*job, "--", *command]
    if agent:
        return ["env", *(f"{name}={value}" for name, value in agent.items()), *command]
    return command


def _refuse_shell_characters(command: Sequence[str]) -> None:
    """Ray joins a job's words with subprocess.list2cmdline, and a shell runs the line.

    That quotes spaces, and leaves other special characters to the shell.

    Raises:
        LaunchError: a word has such a character.
    """
    for word in command:
        if found := re.search(r"[^\w@%+=:,./ -]", word):
            char = found[0]
            raise LaunchError(
                f"with RAY_ADDRESS a shell would change {char!r} in {hide_keys(word)!r}; use "
                f"another name or value, and write %{char.encode(errors='replace').hex()} in a URL"
            )


def _build_agent_environ(settings: Settings) -> dict[str, str]:
    """The environment variables that openrlhf_agent.py reads."""
    environ = {"REWARD_URLS": settings.reward_urls, "PYTHONPATH": build_python_path()}
    if settings.reward:
        environ["REWARD"] = settings.reward
    else:
        environ["SAR_WEIGHT"] = settings.sar_weight
    if settings.system_prompt is not None:
        environ["SYSTEM_PROMPT"] = settings.system_prompt
    return environ


def build_preflight(settings: Settings, flags: Mapping[str, Any], step: int) -> list[str]:
    """The command that checks every reward server before the training.

    Args:
        step: that the run continues from; 0 for a new run.
    """
    command = [
        settings.python,
        str(RECIPES / "preflight.py"),
        "--model",
        str(flags["--actor.model_name_or_path"]),
    ]
    command += ["--data", str(flags["--data.prompt_dataset"])]
    command += ["--eval-data", str(flags["--eval.dataset"])]
    for url in settings.reward_urls.split(","):
        command += ["--url", url]
    if settings.on_policy:
        return [*command, "--on-policy"]
    command += ["--step", str(step)]
    if settings.sar_weight:
        command += ["--sar-weight", settings.sar_weight]
    if settings.reward:
        command += ["--reward", settings.reward]
    if settings.server_model:
        command += ["--server-model", settings.server_model]
    return command


def build_python_path() -> str:
    """PYTHONPATH with this repository in front."""
    return ":".join(filter(None, (str(RECIPES.parent), os.environ.get("PYTHONPATH"))))


def format_command(command: Sequence[str]) -> str:
    """The command as one types it, one flag a line, with the keys in URLs hidden."""
    words = [shlex.quote(hide_keys(word)) for word in command]
    return " ".join(f"\\\n    {word}" if word.startswith("--") else word for word in words)


def hide_keys(word: str) -> str:
    """The word without the keys of URLs. A key may have an @ of its own: the last one ends it."""
    return re.sub("//[^/,]*@", "//***@", word)
