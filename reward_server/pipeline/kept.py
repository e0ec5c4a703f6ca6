"""What is kept for a while after nobody waits for it any more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """Keeps each thing until its time has come, or until newer ones need its room."""

    def __init__(self, max_size: int) -> None:
        """
        Args:
            max_size: of all things together, in the unit of `put`.
        """
        self.size = 0
        self._max_size = max_size
        self._things: dict[_T, tuple[float, int]] = {}  # until when, and its size; oldest first

    def put(self, thing: _T, until_s: float, size: int) -> None:
        """Keeps a thing until this time (monotonic), also if it is kept already."""
        self.remove(thing)
        self._things[thing] = until_s, size
        self.size += size

    def remove(self, thing: _T) -> None:
        """Forgets a thing. Nothing happens if it is not kept."""
        _, size = self._things.pop(thing, (0.0, 0))
        self.size -= size

    def take_old(self, now_s: float) -> Iterator[_T]:
        """Removes, one after the other, what need not or cannot be kept."""
        while self._things:
            thing, (until_s, _) = next(iter(self._things.items()))
            if now_s < until_s and self.size <= self._max_size:
                return
            self.remove(thing)
            yield thing
