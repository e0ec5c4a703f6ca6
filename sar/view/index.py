"""An index over decisions: their numbers in SQLite, in the order in which they come."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple

from sar.decision import Decision
from sar.grading.verdict import Reason
from sar.view import schema

# Without a group id, rollouts of one prompt and policy version are siblings. A pause of this length
# ends such a group: then the prompt came again, in the next epoch of a run with fixed weights.
GROUP_PAUSE_S = 600.0
_NUM_KEPT_GROUPS = 20_000
_MAX_CELLS = 8192
# After so many rollouts, the cells are counted.
_COUNT_EVERY = 2048


class Place(NamedTuple):
    """Where a decision's line is in the log: a file's number in the index, offset and bytes."""

    file: int = 0
    offset: int = 0
    size: int = 0


NO_PLACE = Place()


class _Group(NamedTuple):
    id: int
    last_time: float


class _Change:
    """What a batch of decisions changes in a group."""

    def __init__(self, group: int, number: int, time: float, decision: Decision) -> None:
        self.group, self.first, self.last, self.num = group, number, number, 1
        self.first_time = self.last_time = time
        self.low = self.high = decision.reward
        self.low_correct = self.high_correct = decision.correctness

    def add(self, number: int, time: float, decision: Decision) -> None:
        reward, correctness = decision.reward, decision.correctness
        self.last = number
        self.num += 1
        self.last_time = max(self.last_time, time)
        self.low, self.high = min(self.low, reward), max(self.high, reward)
        self.low_correct = min(self.low_correct, correctness)
        self.high_correct = max(self.high_correct, correctness)


class Index:
    """Adds decisions to the tables. The caller begins and ends the transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """
        Args:
            db: has the tables of `sar.view.schema`.
        """
        self._db = db
        self.forget_cache()

    def forget_cache(self) -> None:
        """Reads again what the tables hold: another process has written to them."""
        db = self._db
        self._groups: OrderedDict[int, _Group] = OrderedDict()
        self._terms: dict[str, int] = {
            name: position for position, name in db.execute("SELECT position, name FROM terms")
        }
        self._versions: dict[str, int] = dict(db.execute("SELECT name, id FROM versions"))
        self._next_id = 1 + (db.execute("SELECT MAX(last) FROM cells").fetchone()[0] or 0)
        self._next_group = 1 + (db.execute("SELECT MAX(id) FROM groups").fetchone()[0] or 0)
        self._last_time = float(schema.read_state(db, "last_time"))
        self._block = int(schema.read_state(db, "block", schema.CELL_ROLLOUTS))
        self._second = float(schema.read_state(db, "second", schema.CELL_SECONDS))

    @property
    def next_id(self) -> int:
        """The number that the next decision gets. The first is 1."""
        return self._next_id

    def add(self, decisions: Sequence[tuple[Decision, Place]]) -> None:
        """Adds decisions as the latest."""
        if not decisions:
            return
        first = self._next_id
        with_terms: dict[tuple[int, ...], list[tuple[object, ...]]] = {}
        groups: dict[int, _Change] = {}
        for decision, place in decisions:
            positions = self._find_terms(decision) if decision.terms else ()
            row = self._make_row(decision, place, groups)
            with_terms.setdefault(positions, []).append((*row, *self._list_terms(decision)))
        for positions, rows in with_terms.items():
            self._insert(rows, positions)
        self._write_groups(groups.values())
        self._write_cells(first)
        schema.write_state(self._db, "last_time", self._last_time)

    def forget(self, before: int) -> None:
        """Removes the rollouts with smaller numbers than `before`. Charts still show them."""
        schema.fold_groups(self._db, before, block=self._block, second=self._second)
        self._db.execute("DELETE FROM rollouts WHERE id < ?", (before,))

    def _insert(self, rows: Sequence[Sequence[object]], positions: Sequence[int]) -> None:
        names = (*_COLUMNS, *(f"t{position}" for position in positions))
        marks = ", ".join("?" * len(names))
        self._db.executemany(
            f"INSERT INTO rollouts ({', '.join(names)}) VALUES ({marks})",
            rows,
        )

    def _make_row(
        self, decision: Decision, place: Place, groups: dict[int, _Change]
    ) -> tuple[object, ...]:
        number = self._next_id
        self._next_id += 1
        time = self._last_time = _parse_time(decision.time, self._last_time)
        version = self._find_version(decision.policy_version)
        is_eval = int(decision.mode == "eval")
        group = self._find_group(decision, time, version, is_eval)
        if change := groups.get(group):
            change.add(number, time, decision)
        else:
            groups[group] = _Change(group, number, time, decision)
        reason = decision.reason
        return (
            number,
            time,
            version,
            is_eval,
            reason.value,
            # Consecutive multiples of this number are spread evenly, so the smallest are a sample.
            number * 2654435761 & 0xFFFFFFFF,
            group,
            *place,
            decision.reward,
            decision.correctness,
            decision.sar,
            decision.num_response_tokens,
            decision.nll_qa,
            decision.nll_a,
            reason is Reason.NO_ANSWER,
            reason is Reason.TIMEOUT or reason is Reason.CRASHED,
            decision.over_context,
            decision.label_unreadable,
            decision.template_mismatch,
        )

    def _find_terms(self, decision: Decision) -> tuple[int, ...]:
        """The positions of a decision's terms. New terms get columns."""
        if decision.mode == "eval":  # no term was computed: they are all 0
            return ()
        for name in decision.terms:
            if name not in self._terms and len(self._terms) < schema.MAX_TERMS:
                self._terms[name] = len(self._terms)
                schema.add_term(self._db, name, self._terms[name])
        return tuple(self._terms[name] for name in decision.terms if name in self._terms)

    def _list_terms(self, decision: Decision) -> list[float]:
        if not decision.terms or decision.mode == "eval":
            return []
        return [value for name, value in decision.terms.items() if name in self._terms]

    def _find_version(self, version: str | int | None) -> int:
        name = "" if version is None else str(version)
        if (found := self._versions.get(name)) is None:
            found = self._versions[name] = len(self._versions)
            is_number = name.isascii() and name.isdigit() and len(name) < 19
            number = int(name) if is_number else None
            self._db.execute("INSERT INTO versions VALUES (?, ?, ?)", (found, name, number))
        return found

    def _find_group(self, decision: Decision, time: float, version: int, is_eval: int) -> int:
        """The number of a decision's group; a new one if it is the first of its siblings."""
        key = _make_key(decision, version, is_eval)
        group = self._groups.get(key)
        if group is None:
            row = self._db.execute(
                "SELECT MAX(id), MAX(last_time) FROM groups WHERE key = ?", (key,)
            ).fetchone()
            group = _Group(*row) if row[0] is not None else None
        if group is None or (not decision.group and time - group.last_time > GROUP_PAUSE_S):
            group = _Group(self._next_group, time)
            self._next_group += 1
            self._db.execute(
                "INSERT INTO groups (id, key, version, is_eval, num) VALUES (?, ?, ?, ?, 0)",
                (group.id, key, version, is_eval),
            )
        self._groups[key] = _Group(group.id, max(group.last_time, time))
        self._groups.move_to_end(key)
        if len(self._groups) > _NUM_KEPT_GROUPS:
            self._groups.popitem(last=False)
        return group.id

    def _write_groups(self, changes: Iterable[_Change]) -> None:
        self._db.executemany(
            "UPDATE groups SET first = IFNULL(first, :first), last = :last, num = num + :num, "
            "first_time = IFNULL(first_time, :first_time), "
            "last_time = MAX(IFNULL(last_time, :last_time), :last_time), "
            "low = MIN(IFNULL(low, :low), :low), high = MAX(IFNULL(high, :high), :high), "
            "low_correct = MIN(IFNULL(low_correct, :low_correct), :low_correct), "
            "high_correct = MAX(IFNULL(high_correct, :high_correct), :high_correct) "
            "WHERE id = :group",
            map(vars, changes),
        )

    def _write_cells(self, first: int) -> None:
        num_terms = len(self._terms)
        schema.add_to_cells(
            self._db,
            first,
            self._next_id - 1,
            block=self._block,
            second=self._second,
            num_terms=num_terms,
        )
        if first // _COUNT_EVERY == self._next_id // _COUNT_EVERY:
            return
        # Rollouts of two policy versions, or modes, share no cell.
        max_cells = _MAX_CELLS + 4 * len(self._versions)
        while self._db.execute("SELECT COUNT(*) FROM cells").fetchone()[0] > max_cells:
            schema.coarsen_cells(self._db, num_terms=num_terms)
            self._block *= 2
            self._second *= 2
            schema.write_state(self._db, "block", self._block)
            schema.write_state(self._db, "second", self._second)


_COLUMNS = (
    *("id", "time", "version", "is_eval", "reason", "sample", "grp", "file", "offset", "size"),
    *schema.METRICS,
)


def _make_key(decision: Decision, version: int, is_eval: int) -> int:
    """The key of a decision's group, as an integer that SQLite can hold."""
    alone = f"p{version} {is_eval} {decision.prompt}"
    text = f"g{decision.group}" if decision.group else alone
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _parse_time(text: str, default: float) -> float:
    """Seconds since 1970. What is no time counts as the time of the decision before."""
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):
        return default
