"""The server's settings, each declared once in `ServerConfig`, and the checks of their values.

Flags, `--help`, error messages and docs/configuration.md come from that declaration, in
`reward_server/command_line.py`.
"""

from __future__ import annotations

import os
import re
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from reward_server.scorer_settings import check_address, check_gpus, read_resources
from sar.arguments import looks_like_folder
from sar.memory import total_memory_bytes
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.reward import DEFAULT_SAR_WEIGHT

if TYPE_CHECKING:
    from sar.terms.composition import Composition

ENV_PREFIX = "REWARD_SERVER_"

# Memory for a queued token: its part of the request's text, and its id in two sequences.
_BYTES_PER_QUEUED_TOKEN = 128
_MIN_KEY_CHARS = 8
MAX_SCORERS = 4096
"""Scorers of one server."""
_HOST_NAME = re.compile(r"\*|[^\s:/@,*]+")


def _setting(
    group: str, default: object, text: str, *, in_words: str = "", value: str = "", **options: Any
) -> Any:
    """Declares a setting.

    Args:
        group: heading under which it is listed.
        default: its default, or a function that returns it.
        text: what it does.
        in_words: the default, if it says too little by itself or differs between machines.
        value: placeholder in `--help`; by default the last word of the setting's name.
        options: for pydantic's `Field`, such as the bounds `ge` and `le`.
    """
    options["default_factory" if callable(default) else "default"] = default
    extra: dict[str, Any] = {"group": group, "default_in_words": in_words, "value": value}
    return Field(description=text, json_schema_extra=extra, **options)


_model = partial(_setting, "Model")
_scorers = partial(_setting, "Scorers")
_reward = partial(_setting, "Reward")
_listening = partial(_setting, "Listening and keys")
_limit = partial(_setting, "Limits")
_grading = partial(_setting, "Grading")
_logging = partial(_setting, "Logs")

# `int` refuses "5000.0", which pydantic alone would accept.
_Count = Annotated[int, Field(ge=1, le=2**31 - 1), BeforeValidator(int)]
_Port = Annotated[int, Field(ge=0, le=65535), BeforeValidator(int)]
_NumKept = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(int)]
_NumScorers = Annotated[int, Field(ge=1, le=MAX_SCORERS), BeforeValidator(int)]
_NumWorkers = Annotated[int, Field(ge=1, le=256), BeforeValidator(int)]


class ServerConfig(BaseSettings):
    """All settings of one server. Those not passed come from the environment."""

    model_config = SettingsConfigDict(frozen=True, env_prefix=ENV_PREFIX, hide_input_in_errors=True)

    model: str | None = _model(
        None,
        "Model to score with: the policy's, as a local folder or Hugging Face id.",
        in_words="the bundled demo model",
        value="PATH_OR_ID",
    )
    follow: str | None = _model(
        None,
        "Folder where the trainer saves checkpoints: its --ckpt.path, with --ckpt.save_hf. "
        "The server loads each new checkpoint once its files are complete.",
        in_words="keep the weights loaded at the start",
        value="FOLDER",
    )
    backend: Literal["transformers", "vllm"] = _model(
        "transformers",
        "Library that runs the model. vllm needs pip install -e '.[vllm]'.",
    )
    vllm_memory_share: float = _model(
        0.92, "Share of GPU (or CPU) memory for vLLM. Only with --backend vllm.", ge=0.05, le=1
    )
    tensor_parallel_size: _Count = _model(
        1, "GPUs that the model is split over. Only with --backend vllm.", value="GPUS"
    )
    device: str = _model(
        "auto",
        "Where the model runs: cpu, cuda, cuda:1, ... auto: the GPU if there is one. "
        "Not with --backend vllm.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _model(
        "auto",
        "Precision of the model. auto: the checkpoint's on a GPU. On a CPU, bfloat16 if the CPU "
        "has AMX or AVX512-BF16 and the model over 100M parameters, otherwise float32.",
    )
    trust_remote_code: bool = _model(
        False, "Run Python code that comes with the model.", in_words="off"
    )

    scorers: _NumScorers = _scorers(
        1,
        "Scorers that share the work. Two or more run on Ray, each with GPUs of its own, and need "
        "pip install -e '.[scale]'. The settings of the model hold for each of them.",
    )
    ray_address: str | None = _scorers(
        None,
        "Ray cluster on which the scorers run: host:port, or auto. This machine must be one of its "
        "nodes.",
        in_words="Ray is started on this machine",
    )
    scorer_gpus: float | None = _scorers(
        None,
        "GPUs of each scorer.",
        in_words="--tensor-parallel-size; 0 with --device cpu, or if Ray has no GPU",
        ge=0,
        le=1024,
    )
    scorer_cpus: float = _scorers(1.0, "CPU cores that Ray keeps for each scorer.", ge=0, le=1024)
    scorer_resources: str = _scorers(
        "",
        "Other resources of Ray that each scorer takes, as a JSON object such as "
        """'{"node:gpu-box": 0.01}'.""",
        in_words="none",
        value="JSON",
    )
    scorer_weights: Literal["shared", "sent"] = _scorers(
        "shared",
        "How scorers get weights. shared: each reads the model's folder, which all machines mount "
        "under one path. sent: this server reads it, and sends it through Ray.",
    )

    sar_weight: float = _reward(
        DEFAULT_SAR_WEIGHT,
        "The reward is correctness + this weight x SAR. 0: correctness alone. Not with --reward.",
        ge=-100,
        le=100,
    )
    reward: str | None = _reward(
        None,
        "TOML file with the terms that the reward is the sum of; see docs/rewards.md.",
        in_words="correctness + --sar-weight x SAR",
        value="FILE",
    )
    system_prompt: str = _reward(
        DEFAULT_SYSTEM_PROMPT, "System prompt in your training prompts. '' if they have none."
    )
    standalone_prompt: str = _reward(
        "chat",
        "Text before the response when ppl_a is computed. chat: the chat template with an empty "
        "question; bos: the BOS token alone; any other text: that text.",
    )

    host: str = _listening(
        "127.0.0.1",
        "Address to listen on. With 0.0.0.0, other machines can connect. That needs a key, or "
        "--allow-anyone.",
    )
    port: _Port = _listening(5000, "Port to listen on. 0 picks a free port.")
    url_file: str | None = _listening(
        None,
        "File that the server writes its URL to once it listens. Useful with --port 0.",
        in_words="none",
    )
    api_key_file: str | None = _listening(
        None,
        "File with the API keys that clients may use, one per line.",
        in_words=f"the key in {ENV_PREFIX}API_KEY, or no key",
    )
    api_key: SecretStr | None = _listening(
        None,
        "One API key. Not a flag, because every user of a machine can read its command lines.",
        in_words="no key",
    )

    allow_anyone: bool = _listening(
        False, "Let other machines connect although there is no key.", in_words="off"
    )
    allowed_hosts: str = _listening(
        "",
        "Host names, with commas between them, that clients without a key may use in their URL "
        "besides this machine's own; also the hosts of web pages that may send requests. *: all.",
        in_words="this machine's names",
    )

    request_timeout: float = _limit(
        170.0,
        "Seconds until an unanswered request is refused. OpenRLHF's client waits 180 s.",
        value="SECONDS",
        ge=1,
        le=86400,
    )
    max_queued_tokens: _Count = _limit(
        lambda: total_memory_bytes() // 4 // _BYTES_PER_QUEUED_TOKEN,
        "Tokens that all requests in the server may hold, estimated at four bytes of text each. "
        "Requests beyond that are refused.",
        in_words=f"a quarter of the memory, at {_BYTES_PER_QUEUED_TOKEN} bytes per token",
    )
    max_samples_per_request: _Count = _limit(8192, "Rollouts in one request.", value="ROLLOUTS")
    max_text_chars: _Count = _limit(1_000_000, "Characters of one query, prompt or label.")
    max_body_bytes: _Count = _limit(64 * 2**20, "Bytes of one request.")
    max_batch_tokens: _Count = _limit(
        16384, "Tokens in one forward pass. A smaller number needs less memory."
    )
    max_context_tokens: _Count | None = _limit(
        None,
        "Tokens of one rollout. A longer one is cut for SAR, and graded whole.",
        in_words="the model's context",
    )

    grader_timeout: float = _grading(
        5.0,
        "CPU seconds that grading one response may take. Waiting for a CPU does not count.",
        value="SECONDS",
        ge=0.1,
        le=3600,
    )
    grader_workers: _NumWorkers = _grading(
        min(os.cpu_count() or 1, 16),
        "Number of grader processes. Slow responses get half as many more, at least one.",
        in_words="one per CPU core, at most 16",
    )

    log_format: Literal["text", "json"] = _logging("text", "Format of the log on standard error.")
    reward_log: str | None = _logging(
        None,
        "Folder to log every rollout and its reward in, for python -m sar rescore.",
        in_words="none",
        value="FOLDER",
    )

    dashboard_rollouts: _NumKept = _logging(
        20_000,
        "Latest rollouts that /dashboard shows. It holds them in memory, and fewer if their texts "
        "are longer than 128 MB. 0: no dashboard.",
    )

    _api_keys: tuple[str, ...] = ()
    _composition: Composition | None = None

    @property
    def api_keys(self) -> tuple[str, ...]:
        """The keys that clients may use; empty if no key is needed."""
        return self._api_keys

    @property
    def composition(self) -> Composition | None:
        """The reward of `--reward`; None without one."""
        return self._composition

    @property
    def weight_of_sar(self) -> float:
        """The weight of SAR in the reward, from the reward file if there is one."""
        if self._composition is None:
            return self.sar_weight
        return self._composition.weight_of_sar

    @property
    def uses_ray(self) -> bool:
        """Whether the scorers run on Ray."""
        return self.scorers > 1 or self.ray_address is not None

    @property
    def resources_of_scorers(self) -> dict[str, float]:
        """The resources of `--scorer-resources`."""
        return read_resources(self.scorer_resources)

    @property
    def model_path(self) -> str:
        """The given path or id of the model, else the path of the bundled demo model."""
        from sar.models import BUNDLED_MODEL

        return str(BUNDLED_MODEL) if self.model is None else self.model

    @property
    def is_reachable(self) -> bool:
        """True if other machines can reach the server."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:  # a name
            return self.host != "localhost"

    @property
    def allowed_host_names(self) -> tuple[str, ...]:
        """The names of `--allowed-hosts`."""
        return tuple(name.strip() for name in self.allowed_hosts.split(",") if name.strip())

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Checks what one setting's type and bounds cannot say, and reads the keys."""
        if self.model is not None and not self.model.strip():
            raise ValueError("--model is empty; leave it out to serve the bundled demo model")
        if self.model and looks_like_folder(self.model) and not Path(self.model).is_dir():
            raise ValueError(f"--model {self.model!r}: no such folder")
        if self.backend == "vllm" and self.device != "auto":
            raise ValueError(
                f"--device {self.device!r}: not with --backend vllm; choose GPUs with "
                "CUDA_VISIBLE_DEVICES"
            )
        for name in ("tensor_parallel_size", "vllm_memory_share"):
            value = getattr(self, name)
            if self.backend != "vllm" and value != type(self).model_fields[name].default:
                raise ValueError(f"{to_flag(name)} {value:g}: only with --backend vllm")
        self._check_scorers()
        for name in self.allowed_host_names:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(
                    f"--allowed-hosts {name!r}: must be a host name without scheme and port, such "
                    "as rewards.example.org, or *"
                )
        if self.reward is not None:
            self._composition = self._read_reward(self.reward)
        self._api_keys = self._read_api_keys()
        if self.is_reachable and not self._api_keys and not self.allow_anyone:
            raise ValueError(
                f"--host {self.host}: other machines could use the server without a key; set "
                f"--api-key-file or {to_variable('api_key')}, or allow it with --allow-anyone"
            )
        return self

    def _check_scorers(self) -> None:
        for name in ("scorer_gpus", "scorer_cpus", "scorer_resources", "scorer_weights"):
            value = getattr(self, name)
            if not self.uses_ray and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{to_flag(name)} {value}: only with --scorers 2 or more, or --ray-address"
                )
        if self.ray_address is not None:
            check_address(self.ray_address)
        if self.scorer_gpus is not None:
            check_gpus(self.scorer_gpus, self.tensor_parallel_size if self.backend == "vllm" else 0)
        read_resources(self.scorer_resources)

    def _read_reward(self, file: str) -> Composition:
        # Imported here so that a server without a reward file starts as fast as before.
        from sar.terms.reward_file import read_reward_file

        if "sar_weight" in self.model_fields_set:
            raise ValueError(
                f"--sar-weight {self.sar_weight:g}: not with --reward; give the term sar this "
                f"weight in {file}"
            )
        try:
            composition = read_reward_file(Path(file))
        except ValueError as error:
            raise ValueError(f"--reward {error}") from error
        if self.backend == "vllm":
            try:
                composition.raise_if_vllm_cannot_compute()
            except ValueError as error:
                raise ValueError(f"--reward {file}: {error}") from error
        return composition

    def _read_api_keys(self) -> tuple[str, ...]:
        """The keys in the file, else the environment's key, else none."""
        if self.api_key_file is not None:
            where = f"--api-key-file {self.api_key_file}"
            try:
                text = Path(self.api_key_file).read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise ValueError(f"{where}: {error.strerror}") from error
            keys = [line.strip() for line in text.splitlines() if line.strip()]
            if not keys:
                raise ValueError(f"{where}: the file holds no key")
        else:
            where = to_variable("api_key")
            # An empty variable is a bad key, not "no key".
            keys = [] if self.api_key is None else [self.api_key.get_secret_value().strip()]
        for key in keys:
            if len(key) < _MIN_KEY_CHARS or not (key.isascii() and key.isprintable()) or " " in key:
                raise ValueError(
                    f"{where}: a key has at least {_MIN_KEY_CHARS} characters, printable ASCII "
                    "without spaces; try: openssl rand -hex 32"
                )
        return tuple(keys)


def to_flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def to_variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()
