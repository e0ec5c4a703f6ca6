"""Reads a bounded number of items ahead, so that work which was started for them gets done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], num_items: int) -> Iterator[T]:
    """Yields all items in order, each after the `num_items` items that follow it were read.

    If reading an item starts work in the background, such as grading, this keeps that many tasks
    going while the caller waits for the first one's result.
    """
    pending: deque[T] = deque()
    for item in items:
        pending.append(item)
        if len(pending) > num_items:
            yield pending.popleft()
    yield from pending
