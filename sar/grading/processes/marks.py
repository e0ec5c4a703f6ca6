"""Marks that a grader pool keeps of texts, for a while: which one was slow, and how slow."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class ExpiringMarks(Generic[_T]):
    """Values by key. A mark goes after its time, or when too many newer ones came. Thread-safe."""

    def __init__(self, lifetime_s: float, max_marks: int) -> None:
        self._lifetime_s = lifetime_s
        self._max_marks = max_marks
        self._lock = threading.Lock()
        # The oldest mark comes first. Only hashes are kept: a text may have a million characters.
        self._marks: OrderedDict[int, tuple[float, _T]] = OrderedDict()

    def set(self, key: Hashable, value: _T) -> None:
        with self._lock:
            self._marks.pop(hash(key), None)
            self._marks[hash(key)] = (time.monotonic() + self._lifetime_s, value)
            if len(self._marks) > self._max_marks:
                self._marks.popitem(last=False)

    def get(self, key: Hashable) -> _T | None:
        """Returns the mark's value; None if there is no mark, or no longer."""
        if not self._marks:  # the usual case: a long text is not hashed for nothing
            return None
        with self._lock:
            expires_s, value = self._marks.get(hash(key), (0.0, None))
            return value if time.monotonic() < expires_s else None
