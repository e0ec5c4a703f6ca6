"""The settings of one run: each default stated once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.benchmarks import choose_benchmarks
from eval.errors import UserError
from eval.run.prompts import PROMPT_STYLES
from sar.arguments import looks_like_folder, number

BUNDLED = "bundled"
BACKENDS = ("transformers", "vllm", "openai")
ENDPOINTS = ("chat", "completions")
DTYPES = ("auto", "float32", "bfloat16", "float16")

# Flags that change what is measured. The rest may differ when a run is started again.
DEFINING_FLAGS = (
    "model", "backend", "benchmarks", "limit", "prompt_style", "enable_thinking", "n",
    "temperature", "top_p", "max_tokens", "seed", "dtype", "endpoint", "tokenizer",
)  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """All settings of `python -m eval run`."""

    output: Path
    model: str = BUNDLED
    backend: str = "transformers"
    benchmarks: str = "gsm8k,math,numinamath,gsm_symbolic,aime,prontoqa,logicbench"
    data_dir: Path | None = None
    limit: int | None = None
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 4096
    seed: int = 0
    prompt_style: str = "paper"
    system_prompt: str | None = None
    instruction: str | None = None
    enable_thinking: bool | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 32
    tensor_parallel_size: int = 1
    trust_remote_code: bool = False
    base_url: str | None = None
    endpoint: str = "chat"
    tokenizer: str | None = None
    concurrency: int = 32
    max_retries: int = 5
    timeout: float = 600.0
    grader_workers: int = min(os.cpu_count() or 1, 16)
    grader_timeout: float = 5.0

    @property
    def model_path(self) -> str:
        """A folder, a hub id, or a model's name on a server."""
        from sar.models import BUNDLED_MODEL

        return str(BUNDLED_MODEL) if self.model == BUNDLED else self.model

    def to_json(self) -> dict[str, Any]:
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }


def parse_args(argv: Sequence[str]) -> RunConfig:
    """The settings of a command line; exits with 2 if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m eval run",
        description="Asks a model the problems of benchmarks, grades and records its responses. "
        "Started again with the same --output, it goes on where it stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --output DIR [--model PATH_OR_ID] [--benchmarks all|a,b] [options]",
    )
    _add_what(parser)
    _add_generation(parser)
    _add_prompt(parser)
    _add_machine(parser)
    given = vars(parser.parse_args(argv))
    config = RunConfig(**{name: value for name, value in given.items() if value is not None})
    if complaint := _complaint(config):
        parser.error(complaint)
    return config


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    add = _adder(group)
    group.add_argument("--output", type=Path, required=True, help="folder of the run")
    add("model", "folder, hub id, or a name on a server; the bundled demo model if left out")
    add("backend", "what generates", choices=BACKENDS)
    add("benchmarks", "all, or names with commas; `python -m eval list` has them", type=_benchmarks)
    add("data_dir", "folder of the benchmarks' files; the Hugging Face hub if left out", type=Path)
    add("limit", "only the first so many problems of each benchmark", type=number(1, kind=int))


def _add_generation(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser.add_argument_group("generation"))
    add("n", "responses to each problem", type=number(1, kind=int))
    add("temperature", "0 is greedy", type=number(0, 10))
    add("top_p", "sample from the likeliest tokens of this share", type=number(1e-6, 1))
    add("max_tokens", "longest response", type=number(1, kind=int))
    add("seed", "of sampling; each sample gets one of its own from it", type=int)


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompt")
    add = _adder(group)
    add("prompt_style", "what is put around a question", choices=tuple(PROMPT_STYLES))
    add("system_prompt", "another than the style's; '' for none")
    add("instruction", "another than the style's after each question; '' for none")
    group.add_argument(
        "--enable-thinking",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="tell the chat template (default: the template's own)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("transformers and vllm")
    add = _adder(group)
    add("device", "auto, cpu, cuda, ...; transformers only")
    add("dtype", "of the weights; auto is float32 on a CPU", choices=DTYPES)
    add("batch_size", "responses generated at once; transformers only", type=number(1, kind=int))
    add("tensor_parallel_size", "GPUs that share the model; vllm only", type=number(1, kind=int))
    group.add_argument(
        "--trust-remote-code", action="store_true", default=None, help="run a model's own code"
    )
    add = _adder(parser.add_argument_group("openai: the key is read from OPENAI_API_KEY"))
    add("base_url", "such as http://localhost:8000/v1")
    add("endpoint", "completions renders the prompts here, by --tokenizer", choices=ENDPOINTS)
    add("tokenizer", "folder or hub id, for --endpoint completions (default: --model)")
    add("concurrency", "requests in flight", type=number(1, kind=int))
    add("max_retries", "further tries of a failed request", type=number(0, 100, int))
    add("timeout", "seconds of one try", type=number(0.1, 86400))
    add = _adder(parser.add_argument_group("grading"))
    add("grader_workers", "grader processes", type=number(1, 256, int))
    add("grader_timeout", "seconds of work on one response", type=number(0.1, 3600))


def _adder(group: Any) -> Callable[..., None]:
    def add(name: str, text: str, **settings: Any) -> None:
        default = getattr(RunConfig, name)
        if default is not None and name != "model":
            text += f" (default: {default})"
        group.add_argument("--" + name.replace("_", "-"), help=text.replace("%", "%%"), **settings)

    return add


def _complaint(config: RunConfig) -> str | None:
    """What is wrong with settings that are each right."""
    if config.n > 1 and config.temperature == 0:
        return f"--n {config.n} with --temperature 0 gives the same response {config.n} times"
    if config.backend == "openai" and not config.base_url:
        return "--backend openai needs --base-url, such as http://localhost:8000/v1"
    if config.backend != "openai" and config.base_url:
        return f"--base-url {config.base_url}: only with --backend openai"
    if config.backend == "vllm" and config.device != "auto":
        return f"--device {config.device}: not with vllm; CUDA_VISIBLE_DEVICES chooses its GPUs"
    if config.output.exists() and not config.output.is_dir():
        return f"--output {config.output}: is a file"
    if config.data_dir and not config.data_dir.is_dir():
        return f"--data-dir {config.data_dir}: no such folder"
    if (
        config.backend != "openai"
        and looks_like_folder(config.model)
        and not Path(config.model).is_dir()
    ):
        return f"--model {config.model}: no such folder"
    return None


def _benchmarks(text: str) -> str:
    try:
        return ",".join(b.name for b in choose_benchmarks(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
