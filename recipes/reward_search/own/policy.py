"""Checks what a search with a model of one's own needs, before any round starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from eval.benchmarks import choose_benchmarks, load_problems
from eval.errors import UserError
from recipes.fetch_model import fetch_model
from recipes.reward_search.own.data import make_prompt, read_train_data
from recipes.reward_search.settings import OwnSettings
from sar.errors import first_line, one_line

_MIN_PROBLEMS = 4
"""Of a benchmark: two that rank and two that compare."""


@dataclass(frozen=True)
class Policy:
    """A model that can be trained, and what its runs need to know."""

    settings: OwnSettings
    """With what identifies model and data."""
    folder: Path
    """Of the model's files."""
    system_prompt: str
    """Of the training data, for the reward server and the evaluation."""


def check_own(own: OwnSettings, num_problems: int) -> Policy:
    """Reads the data and the benchmarks, and loads the model's config and tokenizer.

    Args:
        num_problems: of each benchmark.
    Raises:
        UserError: something cannot be used; the message names the flag and its value.
    """
    data = read_train_data(own.train_data)
    if len(data.rows) < own.prompts_per_step:
        raise UserError(
            f"--train-data {own.train_data}: has {len(data.rows)} prompts, and a step takes "
            f"{own.prompts_per_step} (--prompts-per-step)"
        )
    names = _check_benchmarks(own, num_problems)
    folder = _find_folder(own.policy)
    _check_model(own, folder, data.rows[0].question, data.system_prompt)
    is_local = Path(own.policy).is_dir()
    settings = replace(
        own,
        benchmarks=names,
        policy_revision="" if is_local else folder.name,
        train_data_sha256=data.sha256,
    )
    return Policy(settings, folder, data.system_prompt)


def _check_benchmarks(own: OwnSettings, num_problems: int) -> str:
    """The benchmarks' names, `all` written out."""
    folder = Path(own.benchmark_dir) if own.benchmark_dir else None
    if folder and not folder.is_dir():
        raise UserError(f"--benchmark-dir {folder}: no such folder")
    try:
        chosen = choose_benchmarks(own.benchmarks)
    except UserError as error:
        raise UserError(f"--benchmarks {own.benchmarks}: {error}") from error
    for one in chosen:
        found = len(load_problems(one, folder, num_problems).problems)
        if found < _MIN_PROBLEMS:
            raise UserError(
                f"--benchmarks {one.name}: has {found} problems; a search needs {_MIN_PROBLEMS}"
            )
    return ",".join(one.name for one in chosen)


def _find_folder(policy: str) -> Path:
    try:
        return fetch_model(policy)
    except ValueError as error:
        raise UserError(f"--policy {error}") from error


def _check_model(own: OwnSettings, folder: Path, question: str, system_prompt: str) -> None:
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        make_prompt(tokenizer, question, system_prompt)
    except Exception as error:  # a broken folder raises many types
        raise UserError(f"--policy {own.policy}: cannot be loaded: {one_line(error)}") from error
    context = getattr(config, "max_position_embeddings", None)
    if context and own.max_tokens >= context:
        raise UserError(
            f"--max-tokens {own.max_tokens}: the context of {own.policy} is {context} tokens, and "
            "prompts need some of them"
        )


def check_weights(policy: Policy) -> None:
    """Loads the weights once. This takes as long, and as much memory, as any start of the model.

    Raises:
        UserError: they cannot be loaded, are incomplete, or are those of no trained model.
    """
    from sar.scoring.checkpoint import load_model, raise_if_untrained

    try:
        model = load_model(str(policy.folder), dtype="auto", trust_remote_code=False)
        raise_if_untrained(model)
    except Exception as error:  # a broken folder raises many types
        raise UserError(
            f"--policy {policy.settings.policy}: cannot be loaded: {first_line(error)}"
        ) from error
