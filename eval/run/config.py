"""The settings of `python -m eval run`: each field declares its type, default, help and bounds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from eval.benchmarks import choose_benchmarks
from eval.errors import UserError
from eval.run.prompts import PROMPT_STYLES
from sar.arguments import CommandParser, looks_like_folder, number

BUNDLED = "bundled"
_COUNT = number(1, kind=int)


def _flag(default: Any, text: str, type_: Any = None, **options: Any) -> Any:
    """A flag that may change when a run is resumed.

    Args:
        default: MISSING if the flag is required.
        text: the flag's help.
        type_: converts the text of its value.
        options: further arguments of `ArgumentParser.add_argument`. `group` is the heading in
            --help of this flag and those after it.
    """
    if type_ is not None:
        options["type"] = type_
    return field(default=default, metadata={"is_fixed": False, "help": text, **options})


def _fixed(default: Any, text: str, type_: Any = None, **options: Any) -> Any:
    """A flag that changes what is measured. A run can only be resumed with the same value."""
    return _flag(default, text, type_, is_fixed=True, **options)


def _parse_benchmarks(text: str) -> str:
    """An argparse type: expands `all`, and checks the names of a list."""
    try:
        return ",".join(b.name for b in choose_benchmarks(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run. A flag without a default is required."""

    output: Path = _flag(  # noqa: RUF009  a dataclass field
        MISSING, "folder of the run", Path, group="what is measured"
    )
    model: str = _fixed(
        BUNDLED, "local folder, hub id, or a name on a server; bundled is the demo model"
    )
    backend: str = _fixed(
        "transformers", "what generates the responses", choices=("transformers", "vllm", "openai")
    )
    benchmarks: str = _fixed(
        _parse_benchmarks("all"),
        "all, or names separated by commas; see `python -m eval list`",
        _parse_benchmarks,
    )
    data_dir: Path | None = _flag(  # noqa: RUF009
        None, "folder of the benchmarks' files (default: Hugging Face hub)", Path
    )
    limit: int | None = _fixed(None, "use only the first LIMIT problems of each benchmark", _COUNT)
    n: int = _fixed(1, "responses per problem", _COUNT, group="generation")
    temperature: float = _fixed(0.0, "0 is greedy", number(0, 10))
    top_p: float = _fixed(
        1.0, "sample from the most likely tokens that sum to this probability", number(1e-6, 1)
    )
    max_tokens: int = _fixed(4096, "maximum length of a response", _COUNT)
    seed: int = _fixed(0, "each sample's own seed is derived from this one", int)
    prompt_style: str = _fixed(
        "paper",
        "system prompt and instruction: the paper's, none, or one that asks for \\boxed{}",
        choices=tuple(PROMPT_STYLES),
        group="prompt",
    )
    # The next two are not fixed here: `refuse_other_run` compares the texts that result from them.
    system_prompt: str | None = _flag(None, "replaces the style's system prompt; '' for none")
    instruction: str | None = _flag(
        None, "replaces the style's instruction after each question; '' for none"
    )
    enable_thinking: bool | None = _fixed(
        None,
        "passed to the chat template (default: the template's own)",
        action=argparse.BooleanOptionalAction,
    )
    device: str = _flag(
        "auto", "auto, cpu, cuda, ...; transformers only", group="backends transformers and vllm"
    )
    dtype: str = _fixed(
        "auto",
        "type of the weights; auto is float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    batch_size: int = _flag(32, "responses generated at once; transformers only", _COUNT)
    tensor_parallel_size: int = _flag(1, "GPUs that share one model; vllm only", _COUNT)
    trust_remote_code: bool = _flag(
        False, "run Python code that comes with the model", action="store_true"
    )
    base_url: str | None = _flag(
        None,
        "such as http://localhost:8000/v1",
        group="backend openai (the API key is read from OPENAI_API_KEY)",
    )
    endpoint: str = _fixed(
        "chat",
        "chat: the server applies a chat template; completions: we apply --tokenizer's",
        choices=("chat", "completions"),
    )
    tokenizer: str | None = _fixed(
        None, "local folder or Hugging Face id, for --endpoint completions (default: --model)"
    )
    concurrency: int = _flag(32, "concurrent requests", _COUNT)
    max_retries: int = _flag(5, "retries of a failed request", number(0, 100, int))
    timeout: float = _flag(600.0, "seconds until one attempt times out", number(0.1, 86400))
    grader_workers: int = _flag(
        min(os.cpu_count() or 1, 16), "grader processes", number(1, 256, int), group="grading"
    )
    grader_timeout: float = _flag(
        5.0, "seconds a grader may work on one response", number(0.1, 3600)
    )

    @property
    def model_path(self) -> str:
        """A folder, a Hugging Face id, or a model's name on a server."""
        from sar.models import BUNDLED_MODEL

        return str(BUNDLED_MODEL) if self.model == BUNDLED else self.model

    def to_json(self) -> dict[str, Any]:
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }


FIXED_SETTINGS = tuple(f.name for f in fields(RunConfig) if f.metadata["is_fixed"])


def parse_args(argv: Sequence[str]) -> RunConfig:
    """Reads the command line; exits with code 2 and a message if it is wrong."""
    parser = CommandParser(
        prog="python -m eval run",
        description="Asks a model the problems of benchmarks, grades its responses and records "
        "them. The same command resumes an interrupted run.",
        usage="%(prog)s --output DIR [--model MODEL] [--benchmarks all|a,b] [options]",
    )
    group: Any = parser
    for setting in fields(RunConfig):
        options = {k: v for k, v in setting.metadata.items() if k != "is_fixed"}
        if title := options.pop("group", None):
            group = parser.add_argument_group(title)
        if setting.default is MISSING:
            options["required"] = True
        else:
            options["default"] = setting.default
            if setting.default is not None and setting.default is not False:
                options["help"] += " (default: %(default)s)"
        group.add_argument("--" + setting.name.replace("_", "-"), **options)
    config = RunConfig(**vars(parser.parse_args(argv)))
    if conflict := _find_conflict(config):
        parser.error(conflict)
    return config


def _find_conflict(config: RunConfig) -> str | None:
    """Names the first contradiction between settings, or a path that does not fit; else None."""
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
    is_local = config.backend != "openai" and looks_like_folder(config.model)
    if is_local and not Path(config.model).is_dir():
        return f"--model {config.model}: no such folder"
    return None
