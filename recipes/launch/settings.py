"""The settings of a run: one declaration of their names, types, defaults and help texts."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The paper's values, for all models and both algorithms.
PROMPTS_PER_STEP = 128
PROMPTS_PER_UPDATE = 64
PROMPT_TOKENS = 1024
RESPONSE_TOKENS = 4096
ROLLOUT_TOKENS = PROMPT_TOKENS + RESPONSE_TOKENS


class LaunchError(Exception):
    """The run cannot start; the message is one line for the user."""


def setting(help: str, default: str | int | None = None) -> Any:
    """Declares a setting. A default of None: models.toml has one for each model."""
    return dataclasses.field(metadata={"help": help, "default": default})


@dataclass(frozen=True)
class Settings:
    """All settings. Each is the environment variable of the same name in capitals.

    An `int` is a positive whole number, a `bool` is 0 or 1. An empty variable counts
    as unset, except SYSTEM_PROMPT.
    """

    reward_urls: str = setting(
        "Reward servers, separated by commas. A key goes in as the password: "
        "http://any:KEY@host:5000/get_reward.",
        "http://127.0.0.1:5000/get_reward",
    )
    sar_weight: str = setting(
        "Weight of SAR; 0 is the correctness-only baseline. The servers apply it (--sar-weight), "
        "and the preflight checks that they do. If unset, any weight passes. With ON_POLICY=1 the "
        "agent applies it (0.2 if unset).",
        "",
    )
    reward: str = setting(
        "A reward file (TOML), in place of SAR_WEIGHT. Start the server with the same file: "
        "--reward FILE.toml. With ON_POLICY=1 the agent composes the reward from it. On a cluster, "
        "every node needs it under the same path.",
        "",
    )
    on_policy: bool = setting(
        "1: the vLLM engine that writes a rollout also scores it for SAR (openrlhf_agent.py). The "
        "servers then give correctness only and may have any model.",
        0,
    )
    server_model: str = setting(
        "Model name that the servers must report, if it is not MODEL_PATH (such as a copy's).", ""
    )
    data: str = setting("Folder with prepare_data.py's train.jsonl and eval.jsonl.", "data")
    output: str = setting(
        "Folder for checkpoints and logs. The same command continues from its last checkpoint. If "
        "unset: runs/ALGORITHM-MODEL, with SAR_WEIGHT, REWARD and ON_POLICY in the name.",
        "",
    )
    num_nodes: int = setting("Machines of the Ray cluster.", 1)
    gpus_per_node: int = setting("GPUs to train on, on each machine.", 8)
    ray_address: str = setting(
        "Dashboard of a running Ray cluster, http://HEAD:8265, which gets the run as a job. If "
        "unset, this machine trains alone. On a cluster, MODEL_PATH, DATA and OUTPUT must have the "
        "same paths on every node.",
        "",
    )
    steps: int = setting(
        f"Training steps of {PROMPTS_PER_STEP} prompts each, rounded up to equal passes over DATA.",
        500,
    )
    n_samples: int = setting("Responses to each prompt.", 6)
    save_steps: int = setting(
        "Steps between checkpoints, OUTPUT/checkpoints/global_step{N}_hf.", 50
    )
    eval_steps: int = setting("Steps between greedy evaluations on eval.jsonl.", 100)
    seed: str = setting("Random seed.", 42)
    python: str = setting(
        "Python 3.11 or newer, with openrlhf. Runs this launcher, the preflight and the training.",
        "python",
    )
    system_prompt: str | None = setting(
        "With ON_POLICY=1: the system prompt in DATA, if it is not prepare_data.py's default. "
        "Empty: there is none.",
        "",
    )
    model_path: str = setting("The model to train: a folder or hub id.")
    plain_copy: bool = setting(
        "1: train from OUTPUT/model, a copy of MODEL_PATH without auto_map in its config.json. "
        "OpenRLHF would run the code that auto_map names. The weights are links, or copies with "
        "RAY_ADDRESS."
    )
    zero_stage: str = setting("DeepSpeed ZeRO stage: 2 splits gradients, 3 also splits weights.")
    tensor_parallel: int = setting("GPUs that share one vLLM engine.")
    vllm_memory: str = setting("Share of a GPU's memory that vLLM takes to generate.")
    tokens_per_gpu: int = setting("Tokens in one forward pass. Their logits must fit in memory.")

    @classmethod
    def read(cls, environ: Mapping[str, str], model: Mapping[str, Any]) -> Settings:
        """Reads and checks the settings.

        Args:
            model: the model's defaults, from models.toml.
        Raises:
            LaunchError: a setting is wrong, or two contradict each other.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            name, default = field.name.upper(), field.metadata["default"]
            text = environ.get(name) or str(model[name] if default is None else default)
            values[field.name] = _parse(name, text, str(field.type))
        # Unlike the others it may be set and empty: no system prompt. Unset: the data's default.
        values["system_prompt"] = environ.get("SYSTEM_PROMPT")
        if values["reward"]:
            if values["sar_weight"]:
                raise LaunchError(
                    f"SAR_WEIGHT={values['sar_weight']} and REWARD={values['reward']}: a reward "
                    "file has the weights of its terms; leave out SAR_WEIGHT"
                )
            values["reward"] = str(Path(values["reward"]).absolute())
        elif values["on_policy"]:
            values["sar_weight"] = values["sar_weight"] or "0.2"
        settings = cls(**values)
        settings._check()
        return settings

    @property
    def num_gpus(self) -> int:
        return self.num_nodes * self.gpus_per_node

    @property
    def rollouts_per_update(self) -> int:
        return PROMPTS_PER_UPDATE * self.n_samples

    def _check(self) -> None:
        if self.sar_weight and not _is_number(self.sar_weight):
            raise LaunchError(f"SAR_WEIGHT='{self.sar_weight}' is not a number")
        if self.rollouts_per_update % self.num_gpus:
            raise LaunchError(
                f"{self.num_gpus} GPUs cannot share the {self.rollouts_per_update} rollouts of an "
                "update evenly; choose a GPUS_PER_NODE that divides them"
            )
        if self.num_gpus % self.tensor_parallel:
            raise LaunchError(
                f"TENSOR_PARALLEL={self.tensor_parallel} does not divide the {self.num_gpus} GPUs"
            )
        if self.tokens_per_gpu < ROLLOUT_TOKENS:
            raise LaunchError(
                f"TOKENS_PER_GPU={self.tokens_per_gpu} cannot hold one rollout of "
                f"{ROLLOUT_TOKENS} tokens"
            )
        if self.ray_address and not self.ray_address.startswith(("http://", "https://")):
            raise LaunchError(
                f"RAY_ADDRESS='{self.ray_address}' is not the dashboard's address, such as "
                "http://HEAD:8265"
            )
        if self.num_nodes > 1 and not self.ray_address:
            raise LaunchError(
                f"NUM_NODES={self.num_nodes} needs a Ray cluster: set RAY_ADDRESS to its "
                "http://HEAD:8265"
            )


def describe_settings() -> str:
    """The settings with their help texts and defaults, for --help."""
    paragraphs = []
    for field in dataclasses.fields(Settings):
        text, default = field.metadata["help"], field.metadata["default"]
        if default != "":
            text += f" Default: {'see models.toml' if default is None else default}"
        name = f"  {field.name.upper():<18}"
        paragraphs.append(
            textwrap.fill(
                text, 100, initial_indent=name, subsequent_indent=" " * 20, break_on_hyphens=False
            )
        )
    return "\n".join(paragraphs)


def _parse(name: str, text: str, kind: str) -> str | int | bool:
    if kind == "int":
        if not (text.isascii() and text.isdigit()) or text.startswith("0"):
            raise LaunchError(f"{name}='{text}' is not a positive whole number")
        return int(text)
    if kind == "bool":
        if text not in ("0", "1"):
            raise LaunchError(f"{name}='{text}' is neither 0 nor 1")
        return text == "1"
    return text


def _is_number(text: str) -> bool:
    try:
        # float() alone also takes spaces, underscores and other alphabets' digits.
        return math.isfinite(float(text)) and not text.strip("+-.0123456789eE")
    except ValueError:
        return False
