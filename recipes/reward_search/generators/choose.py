"""Which generator `--generator` names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from eval.errors import UserError
from recipes.reward_search.generators.base import Generator
from recipes.reward_search.generators.endpoint import KEY_VARIABLE, EndpointGenerator
from recipes.reward_search.generators.folder import FolderGenerator
from recipes.reward_search.generators.grammar import GrammarGenerator
from recipes.reward_search.settings import SearchSettings
from sar.errors import quote

_HOST = re.compile(r"[\w.-]+:\d+(/|$)")
"""The start of a URL without its scheme."""


def make_generator(settings: SearchSettings) -> Generator:
    """
    Raises:
        UserError: `--generator` or `--model` is wrong.
    """
    given = settings.generator
    is_url = "://" in given
    is_path = given == "grammar" or Path(given).is_dir()
    if not is_url and not is_path and _HOST.match(given):
        raise UserError(
            f"--generator: {quote(given)} is no URL; did you mean {quote(f'http://{given}')}?"
        )
    if settings.model and not is_url:
        raise UserError(
            f"--model {quote(settings.model)} is for a URL only; leave it out; the model to train "
            "is --policy"
        )
    if is_url:
        if not settings.model:
            raise UserError("--generator URL needs --model, the model's name on that server")
        key = os.environ.get(KEY_VARIABLE)
        return EndpointGenerator(
            given,
            settings.model,
            key,
            per_round=settings.per_round,
            rank_by=settings.rank_by,
            own=settings.own,
        )
    if given == "grammar":
        return GrammarGenerator(settings.seed)
    if Path(given).is_dir():
        return FolderGenerator(Path(given), settings.per_round)
    raise UserError(
        f"--generator {quote(given)}: neither a URL, nor `grammar`, nor a folder that exists"
    )
