"""The settings of `python -m eval run`: each field declares its type, default, help and bounds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from eval.benchmarks import choose_benchmarks
from eval.errors import UserError
from eval.run.prompts import PROMPT_STYLES
from sar.arguments import looks_like_folder, number

BUNDLED = "bundled"
_COUNT = number(1, kind=int)


def _flag(text: str, *, defines_run: bool = False, **options: Any) -> dict[str, Any]:
    """What `parse_args` needs to make a flag of a field, besides the field's name and default.

    Args:
        text: the flag's help.
        defines_run: the setting changes what is measured. A run can only be resumed with the same
            value.
        options: further arguments of `ArgumentParser.add_argument`. `group` is the heading in
            --help of this flag and those after it.
    """
    return {"help": text, "defines_run": defines_run, "options": options}


def _parse_benchmarks(text: str) -> str:
    try:
        return ",".join(b.name for b in choose_benchmarks(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run. A flag without a default is required."""

    output: Annotated[
        Path, _flag("folder of the run; created if missing", type=Path, group="what is measured")
    ]
    model: Annotated[
        str,
        _flag(
            "local folder, Hugging Face id, or model name on a server; bundled is the demo model",
            defines_run=True,
        ),
    ] = BUNDLED
    backend: Annotated[
        str,
        _flag(
            "what generates the responses",
            choices=("transformers", "vllm", "openai"),
            defines_run=True,
        ),
    ] = "transformers"
    benchmarks: Annotated[
        str,
        _flag(
            "all, or names separated by commas; `python -m eval list` shows them",
            type=_parse_benchmarks,
            defines_run=True,
        ),
    ] = _parse_benchmarks("all")
    data_dir: Annotated[
        Path | None,
        _flag("folder of the benchmarks' files (default: the Hugging Face hub)", type=Path),
    ] = None
    limit: Annotated[
        int | None,
        _flag("use only the first LIMIT problems of each benchmark", type=_COUNT, defines_run=True),
    ] = None
    n: Annotated[
        int,
        _flag("responses per problem", type=_COUNT, defines_run=True, group="generation"),
    ] = 1
    temperature: Annotated[float, _flag("0 is greedy", type=number(0, 10), defines_run=True)] = 0.0
    top_p: Annotated[
        float,
        _flag(
            "sample from the most likely tokens that sum to this probability",
            type=number(1e-6, 1),
            defines_run=True,
        ),
    ] = 1.0
    max_tokens: Annotated[
        int, _flag("maximum length of a response", type=_COUNT, defines_run=True)
    ] = 4096
    seed: Annotated[
        int,
        _flag("each sample's own seed is derived from this one", type=int, defines_run=True),
    ] = 0
    prompt_style: Annotated[
        str,
        _flag(
            "system prompt and instruction: the paper's, none, or one that asks for \\boxed{}",
            choices=tuple(PROMPT_STYLES),
            defines_run=True,
            group="prompt",
        ),
    ] = "paper"
    # The next two define the run too. `refuse_other_run` compares the texts that result from them.
    system_prompt: Annotated[
        str | None, _flag("replaces the style's system prompt; '' for none")
    ] = None
    instruction: Annotated[
        str | None, _flag("replaces the style's instruction after each question; '' for none")
    ] = None
    enable_thinking: Annotated[
        bool | None,
        _flag(
            "passed to the chat template (default: the template's own)",
            action=argparse.BooleanOptionalAction,
            defines_run=True,
        ),
    ] = None
    device: Annotated[
        str,
        _flag("auto, cpu, cuda, ...; transformers only", group="backends transformers and vllm"),
    ] = "auto"
    dtype: Annotated[
        str,
        _flag(
            "type of the weights; auto is float32 on a CPU",
            choices=("auto", "float32", "bfloat16", "float16"),
            defines_run=True,
        ),
    ] = "auto"
    batch_size: Annotated[
        int, _flag("responses generated at once; transformers only", type=_COUNT)
    ] = 32
    tensor_parallel_size: Annotated[
        int, _flag("GPUs that share one model; vllm only", type=_COUNT)
    ] = 1
    trust_remote_code: Annotated[
        bool, _flag("run Python code that comes with the model", action="store_true")
    ] = False
    base_url: Annotated[
        str | None,
        _flag(
            "such as http://localhost:8000/v1",
            group="backend openai (the API key is read from OPENAI_API_KEY)",
        ),
    ] = None
    endpoint: Annotated[
        str,
        _flag(
            "chat: the server applies a chat template; completions: we apply --tokenizer's",
            choices=("chat", "completions"),
            defines_run=True,
        ),
    ] = "chat"
    tokenizer: Annotated[
        str | None,
        _flag(
            "local folder or Hugging Face id, for --endpoint completions (default: --model)",
            defines_run=True,
        ),
    ] = None
    concurrency: Annotated[int, _flag("concurrent requests", type=_COUNT)] = 32
    max_retries: Annotated[int, _flag("retries of a failed request", type=number(0, 100, int))] = 5
    timeout: Annotated[
        float, _flag("seconds until one attempt times out", type=number(0.1, 86400))
    ] = 600.0
    grader_workers: Annotated[
        int, _flag("grader processes", type=number(1, 256, int), group="grading")
    ] = min(os.cpu_count() or 1, 16)
    grader_timeout: Annotated[
        float, _flag("seconds a grader may work on one response", type=number(0.1, 3600))
    ] = 5.0

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


def _read_flags() -> dict[str, dict[str, Any]]:
    """Setting name -> what `_flag` returned for it."""
    hints = get_type_hints(RunConfig, include_extras=True)
    return {f.name: hints[f.name].__metadata__[0] for f in fields(RunConfig)}


DEFINING_SETTINGS = tuple(name for name, flag in _read_flags().items() if flag["defines_run"])


def parse_args(argv: Sequence[str]) -> RunConfig:
    """Reads the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m eval run",
        description="Asks a model the problems of benchmarks, grades its responses and records "
        "them. The same command resumes an interrupted run.",
        usage="%(prog)s --output DIR [--model MODEL] [--benchmarks all|a,b] [options]",
    )
    group: Any = parser
    for setting, flag in zip(fields(RunConfig), _read_flags().values(), strict=True):
        text, options, default = flag["help"], {**flag["options"]}, setting.default
        if title := options.pop("group", None):
            group = parser.add_argument_group(title)
        if default is not None and default is not MISSING and default is not False:
            text += " (default: %(default)s)"
        if default is not MISSING:
            options["default"] = default
        name = "--" + setting.name.replace("_", "-")
        group.add_argument(name, help=text, required=default is MISSING, **options)
    config = RunConfig(**vars(parser.parse_args(argv)))
    if conflict := _find_conflict(config):
        parser.error(conflict)
    return config


def _find_conflict(config: RunConfig) -> str | None:
    """What is wrong with settings that do not fit together or name a missing path."""
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
