"""Means over buckets of time, of rollouts or of policy versions: what the charts show."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sar.view import schema

By = Literal["rollouts", "time", "version"]
BY: tuple[By, ...] = get_args(By)

MAX_BUCKETS = 500
_MIN_ROLLOUTS, _MIN_SECONDS = 16, 0.25
# Up to so many, charts read the rollouts themselves.
_MAX_READ_ROLLOUTS = 30_000
_MAX_BANDS = 200


@dataclass
class _Bucket:
    """Sums over the rollouts of a bucket."""

    first: int
    last: int
    start: float
    end: float
    sums: list[float]
    """Of `num`, and of what `schema.list_sums` lists."""
    groups: list[int] = field(default_factory=lambda: [0, 0, 0])
    """How many, and of how many all rewards, and all verdicts, are equal."""

    def merge(self, other: _Bucket) -> None:
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.start, self.end = min(self.start, other.start), max(self.end, other.end)
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]
        self.groups = [a + b for a, b in zip(self.groups, other.groups, strict=True)]


def make_series(
    db: sqlite3.Connection, by: By, *, is_eval: bool = False, num_buckets: int = 200
) -> dict[str, Any]:
    """The means of all metrics and terms, in at most about `num_buckets` buckets.

    Returns:
        Lists with an item for each bucket: `x`, `num` (rollouts), `first` and `last` (their
        numbers), `start` and `end` (seconds since 1970), `num_groups` (groups of several rollouts),
        and `means`, `terms`, by name. A mean is None if no rollout of the bucket has a value.
        `labels` are the versions, if they are the buckets and not all numbers. `bands` are the
        policy versions.
    """
    terms = [name for (name,) in db.execute("SELECT name FROM terms ORDER BY position")]
    extent = db.execute(
        "SELECT SUM(num), MIN(first), MAX(last), MIN(start), MAX(end) FROM cells WHERE is_eval = ?",
        (is_eval,),
    ).fetchone()
    if not extent[0]:
        return _to_answer(by, [], [], None, terms) | {"bands": []}
    num_kept = db.execute("SELECT COUNT(*) FROM rollouts").fetchone()[0]
    num_all = db.execute("SELECT SUM(num) FROM cells").fetchone()[0]
    reads_rollouts = num_kept == num_all <= _MAX_READ_ROLLOUTS
    width = _choose_width(db, by, extent, num_buckets, reads_rollouts)
    buckets = _read_buckets(db, by, width, bool(is_eval), len(terms), reads_rollouts)
    labels = None
    if by == "version":
        xs, labels, found = _sort_versions(db, buckets, num_buckets)
    else:
        found = [buckets[key] for key in sorted(buckets)]
        half = width / 2 if by == "time" else 0
        xs = [key * width + half for key in sorted(buckets)]
    return _to_answer(by, xs, found, labels, terms) | {
        "width": width,
        "bands": _list_bands(db, is_eval),
    }


def _choose_width(
    db: sqlite3.Connection,
    by: By,
    extent: Sequence[float],
    num_buckets: int,
    reads_rollouts: bool,
) -> float:
    """Rollouts or seconds in a bucket. It only ever doubles, so that buckets stay as they are while
    a run grows."""
    _, first, last, start, end = extent
    if by == "version":
        return 1
    if by == "rollouts":
        span, width = last - first + 1, float(_MIN_ROLLOUTS)
        least = schema.read_state(db, "block", schema.CELL_ROLLOUTS)
    else:
        span, width = end - start, _MIN_SECONDS
        least = schema.read_state(db, "second", schema.CELL_SECONDS)
    while span / width > num_buckets or (not reads_rollouts and width < least):
        width *= 2
    return width


def _read_buckets(
    db: sqlite3.Connection,
    by: By,
    width: float,
    is_eval: bool,
    num_terms: int,
    reads_rollouts: bool,
) -> dict[int, _Bucket]:
    sums = ("num", *schema.list_sums(num_terms))
    if reads_rollouts:
        has_term = "".join(f", t{i}, t{i} IS NOT NULL AS c{i}" for i in range(num_terms))
        source = (
            "(SELECT id, time, version, is_eval, 1 AS num, id AS first, id AS last, "
            f"time AS start, time AS end, {', '.join(schema.METRICS)}{has_term} FROM rollouts)"
        )
        keys = {"rollouts": "id / :width", "time": "time / :width"}
        cell: float = 1
    else:
        source = "cells"
        keys = {"rollouts": "block / :width", "time": "second / :width"}
        name, default = (
            ("second", schema.CELL_SECONDS) if by == "time" else ("block", schema.CELL_ROLLOUTS)
        )
        cell = schema.read_state(db, name, default)
    key = keys.get(by, "version")
    # A width of cells, or of rollouts, is a whole number: SQLite then divides without a rest.
    values = {"is_eval": is_eval, "width": _whole(width / cell if by != "version" else 1)}
    rows = db.execute(
        f"SELECT CAST({key} AS INTEGER) AS bucket, MIN(first), MAX(last), MIN(start), "
        f"MAX(end), {', '.join(f'TOTAL({name})' for name in sums)} FROM {source} "
        "WHERE is_eval = :is_eval GROUP BY bucket",
        values,
    )
    buckets = {row[0]: _Bucket(row[1], row[2], row[3], row[4], list(row[5:])) for row in rows}
    _add_groups(db, buckets, by, width, is_eval)
    if not reads_rollouts:
        rows = db.execute(
            f"SELECT CAST({key} AS INTEGER) AS bucket, SUM(num_groups), "
            "SUM(num_equal_reward), SUM(num_equal_correctness) FROM cells "
            "WHERE is_eval = :is_eval GROUP BY bucket",
            values,
        )
        _count_groups(buckets, rows)
    return buckets


def _add_groups(
    db: sqlite3.Connection, buckets: dict[int, _Bucket], by: By, width: float, is_eval: bool
) -> None:
    """Counts the groups that are not in cells. A group counts in the bucket of its first
    rollout."""
    keys = {"rollouts": "first / :width", "time": "first_time / :width", "version": "version"}
    rows = db.execute(
        f"SELECT CAST({keys[by]} AS INTEGER) AS bucket, {schema.GROUP_COUNTS} "
        "FROM groups WHERE num > 1 AND is_eval = :is_eval GROUP BY bucket",
        {"is_eval": is_eval, "width": _whole(width)},
    )
    _count_groups(buckets, rows)


def _count_groups(buckets: dict[int, _Bucket], rows: Iterable[Sequence[int]]) -> None:
    for key, *counts in rows:
        if bucket := buckets.get(key):
            bucket.groups = [a + b for a, b in zip(bucket.groups, counts, strict=True)]


def _sort_versions(
    db: sqlite3.Connection, buckets: dict[int, _Bucket], num_buckets: int
) -> tuple[list[float], list[str] | None, list[_Bucket]]:
    """Sorts versions that are numbers, and leaves others in the order of their appearance."""
    known = {key: (name, number) for key, name, number in db.execute("SELECT * FROM versions")}
    are_numbers = all(known[key][1] is not None for key in buckets)
    keys = sorted(buckets, key=lambda key: known[key][1] if are_numbers else key)
    at_once = -(-len(keys) // num_buckets)
    xs, names, merged = [], [], []
    for start in range(0, len(keys), at_once):
        bucket = buckets[keys[start]]
        for key in keys[start + 1 : start + at_once]:
            bucket.merge(buckets[key])
        merged.append(bucket)
        name, number = known[keys[start]]
        xs.append(number if are_numbers else start)
        names.append(name)
    return xs, None if are_numbers else names, merged


def _list_bands(db: sqlite3.Connection, is_eval: bool) -> list[dict[str, Any]]:
    """The policy versions in the order in which they come, with their rollouts and times."""
    rows = db.execute(
        "SELECT name, MIN(first), MAX(last), MIN(start), MAX(end) FROM cells "
        "JOIN versions ON versions.id = version WHERE is_eval = ? GROUP BY version "
        "ORDER BY MIN(first)",
        (is_eval,),
    ).fetchall()
    names = ("version", "first", "last", "start", "end")
    every = -(-len(rows) // _MAX_BANDS)
    return [dict(zip(names, row, strict=True)) for row in rows[:: max(1, every)]]


def _to_answer(
    by: By,
    xs: Sequence[float],
    buckets: Sequence[_Bucket],
    labels: Sequence[str] | None,
    terms: Sequence[str],
) -> dict[str, Any]:
    def mean(position: int, count: int = 0) -> list[float | None]:
        return [b.sums[position] / b.sums[count] if b.sums[count] else None for b in buckets]

    def share(position: int) -> list[float | None]:
        return [b.groups[position] / b.groups[0] if b.groups[0] else None for b in buckets]

    num_metrics = len(schema.METRICS)
    means = {name: mean(position) for position, name in enumerate(schema.METRICS, 1)}
    means |= {"equal_reward": share(1), "equal_correctness": share(2)}
    return {
        "by": by,
        "x": list(xs),
        "labels": labels,
        "num": [int(bucket.sums[0]) for bucket in buckets],
        "num_groups": [bucket.groups[0] for bucket in buckets],
        **{
            name: [getattr(bucket, name) for bucket in buckets]
            for name in ("first", "last", "start", "end")
        },
        "means": means,
        "terms": {
            name: mean(num_metrics + 1 + 2 * position, num_metrics + 2 + 2 * position)
            for position, name in enumerate(terms)
        },
    }


def _whole(width: float) -> float:
    return int(width) if width == int(width) else width
