"""Models that scorers elsewhere load: what the loading of engines needs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from reward_server.pipeline.batcher import Batcher
from sar.errors import MAX_MESSAGE_CHARS, one_line


class LoadFailed(Exception):
    """No scorer could load the model. The message says why."""

    def __init__(self, reason: str, may_pass: bool) -> None:
        """
        Args:
            may_pass: whether the same model may be loaded without an error later.
        """
        super().__init__(reason)
        self.may_pass = may_pass


def describe_failure(error: BaseException) -> str:
    """Why a model could not be loaded, in one line."""
    # The reason of a scorer elsewhere names the kind of its error already.
    return str(error) if isinstance(error, LoadFailed) else one_line(error, MAX_MESSAGE_CHARS)


@dataclass(frozen=True)
class RemoteModel:
    """A model that scorers elsewhere have loaded."""

    facts: Mapping[str, Any]
    """Its `architecture`, `max_context_tokens`, `scoring_path` and `description`."""
    serve: Callable[[Batcher], None]
    """Gives the batcher all scorers that have loaded it, and those that will."""
    unload: Callable[[], None]
    """Frees its memory on all scorers."""
    has_room_for_copy: Callable[[], bool]
    """Whether each scorer has room for a second model of this size."""


class RemoteScorers(Protocol):
    """Scorers elsewhere."""

    def load(self, path: str) -> RemoteModel:
        """Has them load the model at `path`.

        Raises:
            LoadFailed: none could.
        """
