"""Which generator `--generator` names."""

from __future__ import annotations

import os
from pathlib import Path

from eval.errors import UserError
from recipes.reward_search.generators.base import Generator
from recipes.reward_search.generators.endpoint import KEY_VARIABLE, EndpointGenerator
from recipes.reward_search.generators.folder import FolderGenerator
from recipes.reward_search.generators.grammar import GrammarGenerator
from recipes.reward_search.settings import SearchSettings
from sar.errors import quote


def make_generator(settings: SearchSettings) -> Generator:
    """
    Raises:
        UserError: `--generator` or `--model` is wrong.
    """
    given = settings.generator
    is_url = "://" in given
    if settings.model and not is_url:
        raise UserError(f"--model {quote(settings.model)} is for a URL only; leave it out")
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
