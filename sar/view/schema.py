"""The tables of an index over decisions, in SQLite.

Numbers are columns. Texts are not in the index: `sar.view.log_index` reads them from the log,
`sar.view.live` keeps them in memory.

`cells` hold sums over rollouts that are near each other in the log, in time and in policy version.
So a chart of a million rollouts reads some thousand rows. When there are too many cells, two become
one. A live index keeps its cells after it has forgotten their rollouts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

VERSION = 1
"""An index of another version is built again."""

METRICS = (
    "reward",
    "correctness",
    "sar",
    "num_tokens",
    "nll_qa",
    "nll_a",
    "no_answer",
    "grader_failed",
    "over_context",
    "label_unreadable",
    "template_mismatch",
)
"""What every rollout has. Charts show their means."""
MAX_TERMS = 32
"""Terms of a reward file that are indexed, in the order of their first appearance."""
CELL_ROLLOUTS = 16
CELL_SECONDS = 1.0
"""The smallest cells. Charts of few rollouts read the rollouts themselves."""

_KEY = ("block", "second", "version", "is_eval")
_GROUP_SUMS = ("num_groups", "num_equal_reward", "num_equal_correctness")

_TABLES = f"""
CREATE TABLE state (
    name TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    name TEXT UNIQUE,
    position INTEGER,
    head BLOB,
    tail BLOB
);
CREATE TABLE terms (position INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE versions (id INTEGER PRIMARY KEY, name TEXT UNIQUE, number INTEGER);
CREATE TABLE rollouts (
    id INTEGER PRIMARY KEY,
    time REAL,
    version INTEGER,
    is_eval INTEGER,
    reason TEXT,
    sample INTEGER,
    grp INTEGER,
    file INTEGER,
    offset INTEGER,
    size INTEGER,
    {", ".join(f"{name} REAL" for name in METRICS)}
);
CREATE TABLE groups (
    id INTEGER PRIMARY KEY,
    key INTEGER,
    version INTEGER,
    is_eval INTEGER,
    first INTEGER,
    last INTEGER,
    first_time REAL,
    last_time REAL,
    num INTEGER,
    low REAL,
    high REAL,
    low_correct REAL,
    high_correct REAL
);
CREATE INDEX groups_by_key ON groups (key);
CREATE TABLE cells (
    block INTEGER,
    second INTEGER,
    version INTEGER,
    is_eval INTEGER,
    num INTEGER,
    first INTEGER,
    last INTEGER,
    start REAL,
    end REAL,
    {", ".join(f"{name} INTEGER DEFAULT 0" for name in _GROUP_SUMS)},
    {", ".join(f"{name} REAL" for name in METRICS)},
    PRIMARY KEY ({", ".join(_KEY)})
) WITHOUT ROWID;
"""

# For tables and points of a long log. A ring of some thousand rollouts is quicker without.
_INDEXES = """
CREATE INDEX IF NOT EXISTS rollouts_by_reward ON rollouts (is_eval, reason, reward);
CREATE INDEX IF NOT EXISTS rollouts_by_sar ON rollouts (is_eval, reason, sar);
CREATE INDEX IF NOT EXISTS rollouts_by_reason ON rollouts (is_eval, reason);
CREATE INDEX IF NOT EXISTS rollouts_by_group ON rollouts (grp);
CREATE INDEX IF NOT EXISTS rollouts_by_sample
    ON rollouts (is_eval, correctness, sample, num_tokens, sar, reward);
"""


def create_tables(db: sqlite3.Connection) -> None:
    """Begins an index, in place of the one that is there. The caller ends the transaction."""
    names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (name,) in names:
        db.execute(f"DROP TABLE {name}")
    _execute_all(db, _TABLES)
    db.execute(f"PRAGMA user_version = {VERSION}")
    # Tells a process whether another one has begun the index anew.
    write_state(db, "build", uuid4().hex)


def create_indexes(db: sqlite3.Connection) -> None:
    _execute_all(db, _INDEXES)


def _execute_all(db: sqlite3.Connection, statements: str) -> None:
    # `executescript` would end the transaction.
    for statement in filter(str.strip, statements.split(";")):
        db.execute(statement)


def read_state(db: sqlite3.Connection, name: str, default: Any = 0) -> Any:
    row = db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
    return default if row is None else row[0]


def write_state(db: sqlite3.Connection, name: str, value: object) -> None:
    db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))


def add_term(db: sqlite3.Connection, name: str, position: int) -> None:
    """Adds a term's columns: its value of a rollout; of a cell, its sum and how many have it."""
    db.execute("INSERT INTO terms VALUES (?, ?)", (position, name))
    db.execute(f"ALTER TABLE rollouts ADD COLUMN t{position} REAL")
    db.execute(f"ALTER TABLE cells ADD COLUMN t{position} REAL DEFAULT 0")
    db.execute(f"ALTER TABLE cells ADD COLUMN c{position} INTEGER DEFAULT 0")


def add_to_cells(
    db: sqlite3.Connection, first: int, last: int, *, block: int, second: float, num_terms: int
) -> None:
    """Adds the rollouts from `first` to `last` to the cells.

    Args:
        block, second: how many rollouts, and seconds, a cell has at most.
    """
    sums = list_sums(num_terms)
    terms = "".join(f", TOTAL(t{i}), COUNT(t{i})" for i in range(num_terms))
    columns = (*_KEY, "num", "first", "last", "start", "end", *sums)
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in ("num", *sums))
    db.execute(
        f"INSERT INTO cells ({', '.join(columns)}) "
        "SELECT id / :block AS b, CAST(time / :second AS INTEGER) AS s, version, is_eval, "
        "COUNT(*), MIN(id), MAX(id), MIN(time), MAX(time), "
        f"{', '.join(f'SUM({name})' for name in METRICS)}{terms} "
        "FROM rollouts WHERE id BETWEEN :first AND :last GROUP BY b, s, version, is_eval "
        f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {added}, "
        "first = MIN(first, excluded.first), last = MAX(last, excluded.last), "
        "start = MIN(start, excluded.start), end = MAX(end, excluded.end)",
        {"block": block, "second": second, "first": first, "last": last},
    )


def coarsen_cells(db: sqlite3.Connection, *, num_terms: int) -> None:
    """Makes cells of twice as many rollouts and seconds."""
    sums = ("num", *_GROUP_SUMS, *list_sums(num_terms))
    db.execute(
        "CREATE TEMP TABLE coarse AS SELECT block / 2 AS block, "
        "second / 2 AS second, version, is_eval, MIN(first) AS first, MAX(last) AS last, "
        "MIN(start) AS start, MAX(end) AS end, "
        f"{', '.join(f'SUM({name}) AS {name}' for name in sums)} "
        f"FROM cells GROUP BY block / 2, second / 2, version, is_eval"
    )
    columns = ", ".join((*_KEY, "first", "last", "start", "end", *sums))
    db.execute("DELETE FROM cells")
    db.execute(f"INSERT INTO cells ({columns}) SELECT {columns} FROM coarse")
    db.execute("DROP TABLE coarse")


def fold_groups(db: sqlite3.Connection, before: int, *, block: int, second: float) -> None:
    """Adds groups without a rollout from `before` on to the cells, and forgets them."""
    db.execute(
        "UPDATE cells SET num_groups = num_groups + done.num, "
        "num_equal_reward = num_equal_reward + done.equal_reward, "
        "num_equal_correctness = num_equal_correctness + done.equal_correctness "
        "FROM (SELECT first / :block AS b, CAST(first_time / :second AS INTEGER) AS s, version AS "
        f"v, is_eval AS e, {GROUP_COUNTS} FROM groups WHERE last < :before AND num > 1 "
        "GROUP BY 1, 2, 3, 4) AS done "
        "WHERE block = b AND cells.second = s AND version = v AND is_eval = e",
        {"block": block, "second": second, "before": before},
    )
    db.execute("DELETE FROM groups WHERE last < ?", (before,))


def list_sums(num_terms: int) -> Sequence[str]:
    """The columns of cells that are sums over rollouts."""
    return (*METRICS, *(f"{kind}{i}" for i in range(num_terms) for kind in "tc"))


GROUP_COUNTS = (
    "COUNT(*) AS num, SUM(high - low <= 1e-9) AS equal_reward, "
    "SUM(low_correct = high_correct) AS equal_correctness"
)
"""Of groups with several rollouts: how many there are, and of how many the rollouts got one reward,
and one correctness. The rewards of equal rollouts may differ by rounding."""
