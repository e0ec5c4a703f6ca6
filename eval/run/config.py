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


def _free(text: str, type_: Any = None, **options: Any) -> dict[str, Any]:
    """A flag that may change when a run is resumed.

    Args:
        text: the flag's help.
        type_: converts the text of its value.
        options: further arguments of `ArgumentParser.add_argument`. `group` is the heading in
            --help of this flag and those after it.
    """
    if type_ is not None:
        options["type"] = type_
    return {"defines_run": False, "help": text, **options}


def _fixed(text: str, type_: Any = None, **options: Any) -> dict[str, Any]:
    """A flag that changes what is measured. A run can only be resumed with the same value."""
    return {**_free(text, type_, **options), "defines_run": True}


def _benchmarks(text: str) -> str:
    """An argparse type: the names that a list such as `all` stands for."""
    try:
        return ",".join(b.name for b in choose_benchmarks(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run. A flag without a default is required."""

    output: Annotated[Path, _free("folder of the run", Path, group="what is measured")]
    model: Annotated[
        str, _fixed("local folder, hub id, or a name on a server; bundled is the demo model")
    ] = BUNDLED
    backend: Annotated[
        str, _fixed("what generates the responses", choices=("transformers", "vllm", "openai"))
    ] = "transformers"
    benchmarks: Annotated[
        str, _fixed("all, or names separated by commas; see `python -m eval list`", _benchmarks)
    ] = _benchmarks("all")
    data_dir: Annotated[
        Path | None, _free("folder of the benchmarks' files (default: Hugging Face hub)", Path)
    ] = None
    limit: Annotated[
        int | None, _fixed("use only the first LIMIT problems of each benchmark", _COUNT)
    ] = None
    n: Annotated[int, _fixed("responses per problem", _COUNT, group="generation")] = 1
    temperature: Annotated[float, _fixed("0 is greedy", number(0, 10))] = 0.0
    top_p: Annotated[
        float,
        _fixed("sample from the most likely tokens that sum to this probability", number(1e-6, 1)),
    ] = 1.0
    max_tokens: Annotated[int, _fixed("maximum length of a response", _COUNT)] = 4096
    seed: Annotated[int, _fixed("each sample's own seed is derived from this one", int)] = 0
    prompt_style: Annotated[
        str,
        _fixed(
            "system prompt and instruction: the paper's, none, or one that asks for \\boxed{}",
            choices=tuple(PROMPT_STYLES),
            group="prompt",
        ),
    ] = "paper"
    # The next two define the run too. `refuse_other_run` compares the texts that result from them.
    system_prompt: Annotated[
        str | None, _free("replaces the style's system prompt; '' for none")
    ] = None
    instruction: Annotated[
        str | None, _free("replaces the style's instruction after each question; '' for none")
    ] = None
    enable_thinking: Annotated[
        bool | None,
        _fixed(
            "passed to the chat template (default: the template's own)",
            action=argparse.BooleanOptionalAction,
        ),
    ] = None
    device: Annotated[
        str,
        _free("auto, cpu, cuda, ...; transformers only", group="backends transformers and vllm"),
    ] = "auto"
    dtype: Annotated[
        str,
        _fixed(
            "type of the weights; auto is float32 on a CPU",
            choices=("auto", "float32", "bfloat16", "float16"),
        ),
    ] = "auto"
    batch_size: Annotated[int, _free("responses generated at once; transformers only", _COUNT)] = 32
    tensor_parallel_size: Annotated[int, _free("GPUs that share one model; vllm only", _COUNT)] = 1
    trust_remote_code: Annotated[
        bool, _free("run Python code that comes with the model", action="store_true")
    ] = False
    base_url: Annotated[
        str | None,
        _free(
            "such as http://localhost:8000/v1",
            group="backend openai (the API key is read from OPENAI_API_KEY)",
        ),
    ] = None
    endpoint: Annotated[
        str,
        _fixed(
            "chat: the server applies a chat template; completions: we apply --tokenizer's",
            choices=("chat", "completions"),
        ),
    ] = "chat"
    tokenizer: Annotated[
        str | None,
        _fixed("local folder or Hugging Face id, for --endpoint completions (default: --model)"),
    ] = None
    concurrency: Annotated[int, _free("concurrent requests", _COUNT)] = 32
    max_retries: Annotated[int, _free("retries of a failed request", number(0, 100, int))] = 5
    timeout: Annotated[float, _free("seconds until one attempt times out", number(0.1, 86400))] = (
        600.0
    )
    grader_workers: Annotated[
        int, _free("grader processes", number(1, 256, int), group="grading")
    ] = min(os.cpu_count() or 1, 16)
    grader_timeout: Annotated[
        float, _free("seconds a grader may work on one response", number(0.1, 3600))
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


_FLAGS = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(RunConfig, include_extras=True).items()
}
DEFINING_SETTINGS = tuple(name for name, flag in _FLAGS.items() if flag["defines_run"])


def parse_args(argv: Sequence[str]) -> RunConfig:
    """Reads the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m eval run",
        description="Asks a model the problems of benchmarks, grades its responses and records "
        "them. The same command resumes an interrupted run.",
        usage="%(prog)s --output DIR [--model MODEL] [--benchmarks all|a,b] [options]",
    )
    group: Any = parser
    for setting in fields(RunConfig):
        options = {k: v for k, v in _FLAGS[setting.name].items() if k != "defines_run"}
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
