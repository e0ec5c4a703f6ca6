"""What the page's data come from: an index, and the texts that belong to it."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from sar.decision import Decision

# Where a search looks.
_FIELDS = ("prompt", "response", "answer", "request_id")


class Found(NamedTuple):
    """Where a text was found."""

    numbers: list[int]
    """Rollouts, the latest first."""
    searched_to: int
    """The oldest rollout that was looked at. 0: there is none before it."""


class Source(ABC):
    """An index over decisions, and their texts. Any thread may use it."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """The tables of the index, for one thread."""

    @abstractmethod
    def read(self, number: int) -> Decision | None:
        """A rollout's decision; None if it is not there any more."""

    @abstractmethod
    def search(self, text: str, *, before: int, num_rows: int, timeout_s: float) -> Found:
        """The latest rollouts before number `before` whose texts contain `text`. Capital and small
        letters of ASCII are equal."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the page says about where the rollouts come from."""


def fold(text: str) -> bytes:
    """A text as the search compares it."""
    return text.encode("utf-8", "surrogatepass").lower()


def contains(decision: Decision, folded: bytes) -> bool:
    """Whether a text of a decision contains what `fold` gave."""
    texts = [getattr(decision, name) or "" for name in _FIELDS]
    label = decision.label
    texts += [label] if isinstance(label, str) else [str(value) for value in label.values()]
    return any(folded in fold(text) for text in texts)
