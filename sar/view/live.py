"""An index over the latest rollouts of a running server, in memory.

It holds a bounded number of rollouts, of bounded size. Charts show the whole life of the server.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sar.decision import Decision
from sar.view import schema
from sar.view.index import NO_PLACE, Index
from sar.view.source import Found, Source, contains, fold

MAX_CHARS = 128 * 2**20
# Rough memory of a decision besides its texts.
_OVERHEAD_CHARS = 3000
# Rollouts are forgotten in such parts of the whole, as each time costs a look at all groups.
_FORGET_SHARE = 16


class LiveIndex(Source):
    """Keeps the latest decisions that it is given."""

    def __init__(self, max_rollouts: int, *, max_chars: int = MAX_CHARS, title: str = "") -> None:
        """
        Args:
            max_rollouts: how many it keeps at least, if their texts are short enough.
            max_chars: characters of all texts that it keeps.
        """
        self._max_rollouts = max_rollouts
        self._max_chars = max_chars
        self._title = title
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        schema.create_tables(self._db)
        # For siblings; other questions about so few rollouts need no index.
        self._db.execute("CREATE INDEX rollouts_by_group ON rollouts (grp)")
        self._index = Index(self._db)
        self._decisions: dict[int, Decision] = {}  # from the oldest to the latest
        self._num_chars = 0
        self._lock = threading.Lock()

    def add(self, decisions: Sequence[Decision]) -> None:
        """Adds decisions as the latest, and forgets the oldest."""
        with self._lock, self._transaction():
            first = self._index.next_id
            self._index.add([(decision, NO_PLACE) for decision in decisions])
            for number, decision in enumerate(decisions, first):
                self._decisions[number] = decision
                self._num_chars += count_chars(decision)
            self._forget()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._db

    def read(self, number: int) -> Decision | None:
        return self._decisions.get(number)

    def search(self, text: str, *, before: int, num_rows: int, timeout_s: float) -> Found:
        deadline_s = time.monotonic() + timeout_s
        folded = fold(text)
        with self._lock:
            kept = list(self._decisions.items())
        found: list[int] = []
        for number, decision in reversed(kept):
            if number >= before:
                continue
            if contains(decision, folded):
                found.append(number)
            if len(found) == num_rows or time.monotonic() > deadline_s:
                return Found(found, number)
        return Found(found, 0)

    def describe(self) -> dict[str, Any]:
        return {
            "title": self._title,
            "is_live": True,
            "progress": 1.0,
            "num_bad_lines": 0,
            "first_error": None,
        }

    def _forget(self) -> None:
        slack = self._max_rollouts // _FORGET_SHARE
        num_over = len(self._decisions) - self._max_rollouts
        if num_over <= slack and self._num_chars <= self._max_chars:
            return
        numbers = iter(list(self._decisions))
        for number in numbers:
            if num_over <= 0 and self._num_chars <= self._max_chars:
                self._index.forget(number)
                return
            self._num_chars -= count_chars(self._decisions.pop(number))
            num_over -= 1
        self._index.forget(self._index.next_id)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            self._index.forget_cache()
            raise
        self._db.execute("COMMIT")


def count_chars(decision: Decision) -> int:
    """About how much memory a decision takes, in characters."""
    texts = (decision.prompt, decision.response, decision.answer or "")
    label = decision.label
    num_label_chars = len(label) if isinstance(label, str) else len(str(label))
    return _OVERHEAD_CHARS + num_label_chars + sum(map(len, texts))
