"""Points, tables and single rollouts of an index, as objects that JSON can hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Literal, get_args

from sar.grading.verdict import Reason

Kind = Literal["latest", "best", "worst", "surprising"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_POINTS = 4000
MAX_ROWS = 200
MAX_SIBLINGS = 64
_RIGHT = Reason.CORRECT.value
_WRONG = tuple(reason.value for reason in Reason if reason is not Reason.CORRECT)
_NUMBERS = ("id", "time", "version", "reason", "reward", "correctness", "sar", "num_tokens")
_ROWS = (
    "SELECT rollouts.id, time, versions.name, reason, reward, correctness, sar, "
    "CAST(num_tokens AS INTEGER) FROM rollouts JOIN versions ON versions.id = version "
)


@dataclass(frozen=True)
class Window:
    """Which rollouts are asked for."""

    is_eval: bool = False
    first: int = 0
    last: int = 2**62
    reasons: tuple[str, ...] = ()
    """Only with these reasons; empty: all."""

    @property
    def all_reasons(self) -> tuple[str, ...]:
        return self.reasons or (_RIGHT, *_WRONG)

    @property
    def is_whole(self) -> bool:
        return self.first <= 1 and self.last >= Window.last


def sample_points(db: sqlite3.Connection, window: Window, num_points: int) -> dict[str, Any]:
    """A sample of the rollouts: half of it right, half wrong, as far as there are so many.

    Returns:
        `points`: [id, tokens, SAR, correctness, reward] each. `num_right`, `num_wrong`: how many
        rollouts the sample stands for.
    """
    counts, points = {}, {}
    values: dict[str, Any] = {"is_eval": window.is_eval, "first": window.first, "last": window.last}
    where = "is_eval = :is_eval AND correctness = :correctness"
    if not window.is_whole:
        where += " AND id BETWEEN :first AND :last"
    if window.reasons:
        marks = ", ".join(f":r{i}" for i in range(len(window.reasons)))
        where += f" AND reason IN ({marks})"
        values |= {f"r{i}": reason for i, reason in enumerate(window.reasons)}
    for correctness in (1, 0):
        given = values | {"correctness": correctness, "limit": num_points}
        counts[correctness] = db.execute(
            f"SELECT COUNT(*) FROM rollouts WHERE {where}",
            given,
        ).fetchone()[0]
        points[correctness] = db.execute(
            "SELECT id, CAST(num_tokens AS INTEGER), sar, correctness, reward "
            f"FROM rollouts WHERE {where} ORDER BY sample LIMIT :limit",
            given,
        ).fetchall()
    half = num_points // 2
    num_right = max(half, num_points - len(points[0]))
    chosen = points[1][:num_right]
    chosen += points[0][: num_points - len(chosen)]
    return {"points": chosen, "num_right": counts[1], "num_wrong": counts[0]}


def list_rollouts(
    db: sqlite3.Connection, kind: Kind, window: Window, num_rows: int
) -> list[dict[str, Any]]:
    """The rows of a table.

    Args:
        kind: "latest", "best" and "worst" by reward, or "surprising": right rollouts with the
            lowest SAR in turn with wrong rollouts with the highest.
    """
    if kind == "surprising":
        return _list_surprising(db, window, num_rows)
    order, sign = {"latest": ("id", -1), "best": ("reward", -1), "worst": ("reward", 1)}[kind]
    # One quick look into the index for each reason. Equal rewards: the later rollout first.
    rows = chain.from_iterable(
        _list_by_reason(db, window, reason, order, sign, num_rows) for reason in window.all_reasons
    )
    column = _NUMBERS.index(order)
    return _name(sorted(rows, key=lambda row: (sign * row[column], -row[0]))[:num_rows])


def list_latest(db: sqlite3.Connection, num: int) -> list[int]:
    """The numbers of the latest rollouts of training, the last one first."""
    rows = db.execute("SELECT id FROM rollouts WHERE NOT is_eval ORDER BY id DESC LIMIT ?", (num,))
    return [number for (number,) in rows]


def find_rollouts(
    db: sqlite3.Connection, numbers: Sequence[int], window: Window
) -> list[dict[str, Any]]:
    """The rows of some rollouts, in this order, as far as they are in the window."""
    marks = ", ".join("?" * len(numbers))
    rows = db.execute(
        f"{_ROWS} WHERE rollouts.id IN ({marks}) AND is_eval = ?", (*numbers, window.is_eval)
    ).fetchall()
    column = _NUMBERS.index("reason")
    known = {row[0]: row for row in rows if row[column] in window.all_reasons}
    return _name([known[number] for number in numbers if number in known])


def list_siblings(db: sqlite3.Connection, number: int) -> list[dict[str, Any]]:
    """The rollouts of a rollout's group, itself included; at most `MAX_SIBLINGS` around it."""
    rows = db.execute(
        f"{_ROWS} WHERE grp = (SELECT grp FROM rollouts WHERE id = ?) "
        "ORDER BY ABS(rollouts.id - ?) LIMIT ?",
        (number, number, MAX_SIBLINGS),
    )
    return _name(sorted(rows))


def read_summary(db: sqlite3.Connection) -> dict[str, Any]:
    """How many rollouts there are, of which modes, and the latest of them."""
    modes = dict(db.execute("SELECT is_eval, SUM(num) FROM cells GROUP BY is_eval"))
    first, last, start, end = db.execute(
        "SELECT MIN(first), MAX(last), MIN(start), MAX(end) FROM cells"
    ).fetchone()
    (kept_from,) = db.execute("SELECT MIN(id) FROM rollouts").fetchone()
    versions = db.execute("SELECT COUNT(*) FROM versions").fetchone()[0]
    return {
        "num_train": modes.get(0, 0),
        "num_eval": modes.get(1, 0),
        "first": first,
        "last": last,
        "start": start,
        "end": end,
        "kept_from": kept_from,
        "num_versions": versions,
    }


def _list_by_reason(
    db: sqlite3.Connection, window: Window, reason: str, order: str, sign: int, num_rows: int
) -> list[tuple[Any, ...]]:
    where = "is_eval = ? AND reason = ?"
    values: list[object] = [window.is_eval, reason]
    if not window.is_whole:
        where += " AND rollouts.id BETWEEN ? AND ?"
        values += [window.first, window.last]
    direction = "ASC" if sign > 0 else "DESC"
    ties = "" if order == "id" else ", rollouts.id DESC"
    order = "rollouts.id" if order == "id" else order
    return db.execute(
        f"{_ROWS} WHERE {where} ORDER BY {order} {direction}{ties} LIMIT ?", (*values, num_rows)
    ).fetchall()


def _list_surprising(db: sqlite3.Connection, window: Window, num_rows: int) -> list[dict[str, Any]]:
    column = _NUMBERS.index("sar")
    right: list[tuple[Any, ...]] = []
    wrong: list[tuple[Any, ...]] = []
    for reason in window.all_reasons:
        if reason == _RIGHT:
            right += _list_by_reason(db, window, reason, "sar", 1, num_rows)
        else:
            wrong += _list_by_reason(db, window, reason, "sar", -1, num_rows)
    wrong.sort(key=lambda row: (-row[column], -row[0]))
    pairs = zip_longest(right, wrong)
    rows = [row for row in chain.from_iterable(pairs) if row is not None]
    return _name(rows[:num_rows])


def _name(rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(_NUMBERS, row, strict=True)) for row in rows]
