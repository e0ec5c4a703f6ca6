"""The index of a reward log, in a file beside the log.

It grows with the log: a later start goes on where the last one ended. It is built again if the log
was replaced, or the index is of another version or broken. Several processes may share it: each
batch is one transaction, which first reads how far the index has come. In a folder that cannot be
written, the index is a temporary file.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from sar.decision import Decision
from sar.errors import first_line
from sar.view import schema
from sar.view.index import Index, Place
from sar.view.log_search import search_log
from sar.view.source import Found, Source

NAME = ".view.sqlite"
_BATCH_BYTES = 8 * 2**20
_BATCH_LINES = 4000
# Of a file's start, and of what was read last: enough to notice that the file is another one.
_MARK_BYTES = 4096
_LOCK_TIMEOUT_S = 60.0


class _File(NamedTuple):
    """How far a file of the log is indexed."""

    id: int
    name: str
    position: int
    head: bytes
    """Digest of the file's first bytes that are indexed."""
    tail: bytes
    """Digest of the last bytes that are indexed."""


class LogIndex(Source):
    """The index of the .jsonl files of a folder, or of one file."""

    def __init__(self, log: Path) -> None:
        """
        Args:
            log: a folder, or a .jsonl file.
        Raises:
            OSError: the index can be written neither beside the log nor among temporary files.
        """
        self._log = log
        self._folder = log if log.is_dir() else log.parent
        self.path, self._is_temporary = _choose_path(log)
        self.is_complete = False
        """Whether all that the log held at the last look is indexed."""
        self._begin(self._open())

    def close(self) -> None:
        self._db.close()
        if self._is_temporary:
            for path in self.path.parent.glob(self.path.name + "*"):
                path.unlink(missing_ok=True)

    def list_files(self) -> list[Path]:
        """The files of the log, by name."""
        return sorted(self._log.glob("*.jsonl")) if self._log.is_dir() else [self._log]

    def update(self, on_bytes: Callable[[int], object] = lambda _: None) -> int:
        """Indexes what the log has grown by. Returns how many decisions that is.

        Args:
            on_bytes: called with the size of what was just indexed.
        """
        if _identify(self.path) != self._identity:  # somebody has deleted it
            self._db.close()
            self._begin(self._open())
        self._start_anew_if_replaced()
        num_added = 0
        for path in self.list_files():
            while added := self._add_batch(path, on_bytes):
                num_added += added[0]
        if not self.is_complete:
            # A first build is quicker without these, and nobody reads the tables before its end.
            schema.create_indexes(self._db)
        self.is_complete = True
        return num_added

    @property
    def progress(self) -> float:
        """Share of the log that is indexed."""
        total = sum(_size(path) for path in self.list_files())
        with self.reading() as db:
            done = db.execute("SELECT TOTAL(position) FROM files").fetchone()[0]
        return min(1.0, done / total) if total else 1.0

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with closing(_connect(self.path)) as db:
            db.execute("PRAGMA query_only = 1")
            yield db

    def read(self, number: int) -> Decision | None:
        with self.reading() as db:
            row = db.execute(
                "SELECT name, offset, size FROM rollouts JOIN files ON files.id = file "
                "WHERE rollouts.id = ?",
                (number,),
            ).fetchone()
        if row is None:
            return None
        with suppress(OSError, ValueError), (self._folder / row[0]).open("rb") as file:
            file.seek(row[1])
            return Decision.from_json(file.read(row[2]).decode())
        return None

    def search(self, text: str, *, before: int, num_rows: int, timeout_s: float) -> Found:
        with self.reading() as db:
            return search_log(
                db, self._folder, text, before=before, num_rows=num_rows, timeout_s=timeout_s
            )

    def describe(self) -> dict[str, Any]:
        with self.reading() as db:
            error = db.execute("SELECT value FROM state WHERE name = 'first_error'").fetchone()
            num_bad = schema.read_state(db, "num_bad_lines")
        return {
            "title": str(self._log),
            "is_live": False,
            "progress": 1.0 if self.is_complete else self.progress,
            "num_bad_lines": num_bad,
            "first_error": error[0] if error else None,
        }

    def _begin(self, db: sqlite3.Connection) -> None:
        """Goes on with the index in `db`."""
        self._db = db
        self._identity = _identify(self.path)
        self._index = Index(db)
        self._mark = _read_mark(db)
        self.is_complete = False

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # such as a full disk
                raise OSError(f"cannot write the index {self.path}: {error}") from error
        for suffix in ("", "-journal"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        """Opens the index; begins it if there is none that this version can read."""
        # Only this user may read it, as the log.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        db = _connect(self.path)
        try:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone()[0] != schema.VERSION:
                schema.create_tables(db)
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # some errors have ended the transaction
                self._db.execute("ROLLBACK")
            self._mark = ("", 0)
            raise

    def _start_anew_if_replaced(self) -> None:
        """Begins the index anew if a file is gone, or is not the one that was indexed."""
        with self._transaction():
            files = [_File(*row) for row in self._db.execute("SELECT * FROM files")]
            if all(_is_same(self._folder / file.name, file) for file in files):
                return
            schema.create_tables(self._db)
        self._begin(self._db)

    def _add_batch(self, path: Path, on_bytes: Callable[[int], object]) -> tuple[int, int] | None:
        """Indexes the next lines of a file. Returns how many decisions and bytes; None at its end.
        An incomplete last line stays for later."""
        with suppress(FileNotFoundError), path.open("rb") as lines:
            with self._transaction():
                added = self._add_lines(path, lines)
            if added:
                on_bytes(added[1])
            return added
        return None

    def _add_lines(self, path: Path, lines: Any) -> tuple[int, int] | None:
        db = self._db
        if _read_mark(db) != self._mark:  # another process has written to the index
            self._index.forget_cache()
        file = self._find_file(path)
        lines.seek(file.position)
        decisions: list[tuple[Decision, Place]] = []
        position = file.position
        while len(decisions) < _BATCH_LINES and position - file.position < _BATCH_BYTES:
            line = lines.readline()
            if not line.endswith(b"\n"):
                break
            try:
                decision = Decision.from_json(line.decode())
            except ValueError as error:
                self._note_bad_line(f"{path.name} at byte {position}: {first_line(error)}")
            else:
                decisions.append((decision, Place(file.id, position, len(line))))
            position += len(line)
        if position == file.position:
            return None
        self._index.add(decisions)
        head, tail = _read_marks(lines, position)
        db.execute(
            "UPDATE files SET position = ?, head = ?, tail = ? WHERE id = ?",
            (position, head, tail, file.id),
        )
        schema.write_state(db, "num_batches", schema.read_state(db, "num_batches") + 1)
        self._mark = _read_mark(db)
        return len(decisions), position - file.position

    def _find_file(self, path: Path) -> _File:
        query = "SELECT * FROM files WHERE name = ?"
        if (row := self._db.execute(query, (path.name,)).fetchone()) is None:
            self._db.execute(
                "INSERT INTO files (name, position, head, tail) VALUES (?, 0, x'', x'')",
                (path.name,),
            )
            row = self._db.execute(query, (path.name,)).fetchone()
        return _File(*row)

    def _note_bad_line(self, message: str) -> None:
        num_bad = schema.read_state(self._db, "num_bad_lines")
        schema.write_state(self._db, "num_bad_lines", num_bad + 1)
        if not num_bad:
            schema.write_state(self._db, "first_error", message)


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions begin and end where we say so. One thread at a time uses a connection.
    db = sqlite3.connect(
        path, timeout=_LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA cache_size = -65536")
    return db


def _read_mark(db: sqlite3.Connection) -> tuple[str, int]:
    """Changes whenever a process writes to the index."""
    return schema.read_state(db, "build"), schema.read_state(db, "num_batches")


def _choose_path(log: Path) -> tuple[Path, bool]:
    """Where the index of a log is, and whether that is a temporary file."""
    path = log / NAME if log.is_dir() else log.with_name(f".{log.name}{NAME}")
    try:
        if path.exists():
            is_writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            is_writable = True
    except OSError:
        is_writable = False
    if is_writable:
        return path, False
    handle, name = tempfile.mkstemp(suffix=".sqlite", prefix="sar-view-")
    os.close(handle)
    return Path(name), True


def _read_marks(file: Any, position: int) -> tuple[bytes, bytes]:
    """Digests of the first and the last bytes before a position."""
    file.seek(0)
    head = file.read(min(position, _MARK_BYTES))
    file.seek(max(0, position - _MARK_BYTES))
    tail = file.read(min(position, _MARK_BYTES))
    return _digest(head), _digest(tail)


def _is_same(path: Path, known: _File) -> bool:
    """Whether a file begins with what was indexed."""
    if known.position == 0:
        return True
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < known.position:
                return False
            # The head was read when the file may have been shorter than a mark.
            head, tail = _read_marks(file, known.position)
    except OSError:
        return False
    return (head, tail) == (known.head, known.tail)


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _identify(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
