"""The server's settings: each default stated once; every flag is also an environment variable.

`--max-batch-tokens 8192` and `REWARD_SERVER_MAX_BATCH_TOKENS=8192` are the same; the flag wins.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sar.arguments import looks_like_folder, number
from sar.memory import total_memory_bytes
from sar.prompts import DEFAULT_SYSTEM_PROMPT
from sar.reward import DEFAULT_SAR_WEIGHT

ENV_PREFIX = "REWARD_SERVER_"

# Its share of the request's text, and its id in two lists.
_BYTES_PER_QUEUED_TOKEN = 128
_MIN_KEY_CHARS = 8


@dataclass(frozen=True)
class ServerConfig:
    """All settings of one server."""

    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 5000
    sar_weight: float = DEFAULT_SAR_WEIGHT
    system_prompt: str = DEFAULT_SYSTEM_PROMPT
    standalone_prompt: str = "chat"
    backend: str = "transformers"
    tensor_parallel_size: int = 1
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    max_batch_tokens: int = 16384
    max_context_tokens: int | None = None
    grader_timeout: float = 5.0
    grader_workers: int = min(os.cpu_count() or 1, 16)
    request_timeout: float = 170.0
    max_queued_tokens: int | None = None
    max_samples_per_request: int = 8192
    max_text_chars: int = 1_000_000
    max_body_bytes: int = 256 * 2**20
    follow: str | None = None
    api_key_file: str | None = None
    log_format: str = "text"
    reward_log: str | None = None
    url_file: str | None = None
    api_keys: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    """Not a flag, as command lines are there for all to see: from `api_key_file`, or from
    `REWARD_SERVER_API_KEY`."""

    @property
    def model_path(self) -> str:
        """Where the model comes from: the given path or id, else the bundled demo model."""
        from sar.models import BUNDLED_MODEL

        return str(BUNDLED_MODEL) if self.model is None else self.model

    @property
    def is_reachable(self) -> bool:
        """Whether other machines can reach it."""
        return self.host not in ("localhost", "::1") and not self.host.startswith("127.")

    @property
    def queued_tokens_limit(self) -> int:
        """`max_queued_tokens`, by default what a quarter of the memory holds."""
        return self.max_queued_tokens or total_memory_bytes() // 4 // _BYTES_PER_QUEUED_TOKEN


_HELP: dict[str, str] = {
    "model": "local path or Hugging Face id of the policy's model (default: the bundled demo)",
    "host": "address to listen on",
    "port": "port to listen on; 0 takes a free one",
    "sar_weight": "weight of SAR beside correctness; 0 for correctness only",
    "system_prompt": "the system prompt your training prompts carry; '' for none",
    "standalone_prompt": (
        "context of ppl_a: 'chat' (chat template, empty question), 'bos', or any other text as is"
    ),
    "backend": "what runs the model: transformers, or vllm on GPUs (pip install -e '.[vllm]')",
    "tensor_parallel_size": "GPUs that share the model; vllm only",
    "device": "auto, cpu, cuda, cuda:1, ...; transformers only",
    "dtype": "auto (float32 on a CPU, else the checkpoint's), float32, bfloat16 or float16",
    "trust_remote_code": "run Python code that comes with the model",
    "max_batch_tokens": "tokens in one forward pass; bounds memory",
    "max_context_tokens": "cut longer rollouts to this (default: the model's own context)",
    "grader_timeout": "seconds of work a grader may spend on one response",
    "grader_workers": "grader processes",
    "request_timeout": "seconds until a request is refused; OpenRLHF's client waits for 180",
    "max_queued_tokens": (
        "tokens of requests that wait; beyond it, requests are refused (default: what a quarter of "
        "the memory holds)"
    ),
    "max_samples_per_request": "rollouts in one request",
    "max_text_chars": "characters of one query, prompt or label",
    "max_body_bytes": "bytes of one request",
    "follow": (
        "the trainer's --ckpt.path: checkpoints that --ckpt.save_hf writes there are scored with, "
        "once they are whole (default: the weights of the start stay)"
    ),
    "api_key_file": (
        "file with the keys that let in, one a line (default: REWARD_SERVER_API_KEY, or no key)"
    ),
    "log_format": "text or json",
    "reward_log": (
        "folder to log every reward in, with its rollout, for python -m sar rescore (default: none)"
    ),
    "url_file": (
        "file to write the server's URL to once it listens, as with --port 0 (default: none)"
    ),
}


_FLAGS = [field for field in fields(ServerConfig) if field.name != "api_keys"]


def parse_args(
    argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ
) -> ServerConfig:
    """The configuration from a command line and the environment; exits with 2 if it is wrong."""
    defaults = ServerConfig()
    parser = argparse.ArgumentParser(
        prog="python -m reward_server",
        usage="%(prog)s [--model PATH_OR_ID] [--port PORT] [options]; --help lists them",
        description="Serves correctness + SAR rewards to OpenRLHF (--reward.remote_url).",
        epilog=f"Every flag is also an environment variable: {ENV_PREFIX}PORT=5000.",
    )
    for field in _FLAGS:
        flag = "--" + field.name.replace("_", "-")
        default = getattr(defaults, field.name)
        text = _HELP[field.name]
        if "default:" not in text:
            text += f" (default: {default})"
        text = text.replace("%", "%%")
        if field.type == "bool":
            parser.add_argument(flag, action="store_true", default=None, help=text)
        else:
            parser.add_argument(
                flag, type=_TYPES.get(field.name, str), choices=_CHOICES.get(field.name), help=text
            )
    given = vars(parser.parse_args(argv))
    values: dict[str, Any] = {}
    for field in _FLAGS:
        if given[field.name] is not None:
            values[field.name] = given[field.name]
        elif (variable := ENV_PREFIX + field.name.upper()) in environ:
            try:
                values[field.name] = _from_environment(field.name, environ[variable])
            except (ValueError, argparse.ArgumentTypeError) as error:
                parser.error(f"{variable}={environ[variable]!r}: {error}")
    try:
        keys = _api_keys(values.get("api_key_file"), environ.get(ENV_PREFIX + "API_KEY"))
    except ValueError as error:
        parser.error(str(error))
    config = ServerConfig(**values, api_keys=keys)
    if config.model is not None and not config.model.strip():
        parser.error("--model is empty; leave it out to serve the bundled demo model")
    if (
        config.model is not None
        and looks_like_folder(config.model)
        and not Path(config.model).is_dir()
    ):
        parser.error(f"--model {config.model!r}: no such folder")
    if config.backend == "vllm" and config.device != "auto":
        parser.error(
            f"--device {config.device!r}: not with --backend vllm; CUDA_VISIBLE_DEVICES chooses "
            "its GPUs"
        )
    if config.backend != "vllm" and config.tensor_parallel_size > 1:
        parser.error(
            f"--tensor-parallel-size {config.tensor_parallel_size}: only with --backend vllm"
        )
    if config.backend == "vllm" and config.follow is not None:
        parser.error(f"--follow {config.follow!r}: not with --backend vllm")
    return config


def _from_environment(name: str, text: str) -> Any:
    if isinstance(getattr(ServerConfig(), name), bool):
        if text.lower() not in ("0", "1", "true", "false"):
            raise ValueError("must be 1, 0, true or false")
        return text.lower() in ("1", "true")
    value = _TYPES.get(name, str)(text)
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"must be one of {', '.join(_CHOICES[name])}")
    return value


def _api_keys(path: str | None, from_environment: str | None) -> tuple[str, ...]:
    """The keys of a file, else the environment's, else none.

    Raises:
        ValueError: they cannot be read, or are no keys.
    """
    if path is None:
        keys = [] if from_environment is None else [from_environment.strip()]
        where = ENV_PREFIX + "API_KEY"
    else:
        where = f"--api-key-file {path}"
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ValueError(f"{where}: {error.strerror}") from error
        keys = [line.strip() for line in text.splitlines() if line.strip()]
        if not keys:
            raise ValueError(f"{where}: there is no key in it")
    for key in keys:
        if len(key) < _MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"{where}: a key has at least {_MIN_KEY_CHARS} characters, printable ASCII without "
                "spaces; try: openssl rand -hex 32"
            )
    return tuple(keys)


_COUNT = number(1, 2**31 - 1, int)
_TYPES: dict[str, Callable[[str], Any]] = {
    "port": number(0, 65535, int),
    "sar_weight": number(-100, 100),
    "tensor_parallel_size": _COUNT,
    "max_batch_tokens": _COUNT,
    "max_context_tokens": _COUNT,
    "grader_timeout": number(0.1, 3600),
    "grader_workers": number(1, 256, int),
    "request_timeout": number(1, 86400),
    "max_queued_tokens": _COUNT,
    "max_samples_per_request": _COUNT,
    "max_text_chars": _COUNT,
    "max_body_bytes": _COUNT,
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "backend": ("transformers", "vllm"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "log_format": ("text", "json"),
}
