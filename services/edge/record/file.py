"""The file itself: one process at a time, one transaction a step, errors that say what to do."""

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from common.errors import Corrupt, Unavailable
from services.edge.record.schema import (
    APPLICATION_ID,
    MIGRATIONS,
    SCHEMA_VERSION,
    create,
    meta,
    migrate,
    wrong_version,
)

BUSY_TIMEOUT_S: Final = 5.0


class File:
    """An edge's file, open in this process alone. Its methods may be called from any thread."""

    def __init__(self, path: Path, *, now_s: float, address: str) -> None:
        """Opens or makes it. Raises as Record does."""
        self.path: Final = path
        self._turn: Final = threading.Lock()
        self._guard: Final = _lock(path, address)
        with contextlib.ExitStack() as undo:
            undo.callback(self._guard.close)
            with translated(path):
                self.db: Final = sqlite3.connect(
                    path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
                )
            undo.callback(self.db.close)
            self._prepare(now_s)
            undo.pop_all()

    def close(self) -> None:
        """Closes it and gives up the lock."""
        with self._turn:
            self.db.close()
            self._guard.close()

    def scrub(self) -> None:
        """Carries the log into the file and empties it: what was overwritten in the one is gone from the other."""
        with self._turn, translated(self.path):
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of what is done in the block, or nothing."""
        with self._turn, translated(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def all(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg]  # rows of any columns
        """The rows that a query finds."""
        with self._turn, translated(self.path):
            return self.db.execute(sql, values).fetchall()

    def one(self, sql: str, values: Sequence[object] = ()) -> tuple | None:  # type: ignore[type-arg]
        """The first of them."""
        return next(iter(self.all(sql, values)), None)

    def meta(self, name: str) -> str | None:
        """A value of the table `meta`."""
        with self._turn, translated(self.path):
            return meta(self.db, name)

    def _prepare(self, now_s: float) -> None:
        with translated(self.path):
            self.db.execute("PRAGMA journal_mode = WAL")
            self.db.execute("PRAGMA synchronous = FULL")
            self.db.execute("PRAGMA secure_delete = ON")
            version = int(self.db.execute("PRAGMA user_version").fetchone()[0])
            owner = int(self.db.execute("PRAGMA application_id").fetchone()[0])
            tables = int(self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        if version == 0 and tables == 0:
            with self.write() as db:
                create(db, now_s)
        elif owner != APPLICATION_ID:
            raise Corrupt("not_a_record", f"{self.path} is another program's database: move it away")
        elif version in MIGRATIONS:
            with self.write() as db:
                migrate(db, version)
        elif version != SCHEMA_VERSION:
            raise wrong_version(self.path, version)


def address_of(path: Path) -> str:
    """Where the process that has this file in use serves HTTP, http://HOST:PORT; empty where it does not say."""
    try:
        return _lock_path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(path: Path, address: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 -- an open file, of a type without a public name
    """Holds `path`.lock, the address inside, until the process ends.

    Raises Unavailable("state_in_use", "unwritable").
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = _lock_path(path).open("a", encoding="utf-8")
    except OSError as error:
        raise _refused(path, error.strerror or "") from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        guard.close()
        raise Unavailable(
            "state_in_use", f"{path} is in use by another process: an edge runs once a node, choose another QIG_NODE"
        ) from error
    guard.truncate(0)
    guard.write(address)
    guard.flush()
    return guard


def _refused(path: Path, reason: str) -> Unavailable:
    return Unavailable("unwritable", f"{path}: {reason}: make {os.fspath(path.parent)} writable for this user")


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """What SQLite refuses, as an error whose class says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        full = code == sqlite3.SQLITE_IOERR_SHMSIZE  # the log's index finds no room: SQLite calls that an I/O error
        code &= 0xFF
        if full or code == sqlite3.SQLITE_FULL:
            raise Unavailable("disk_full", f"no space left for {path}: free some, nothing was lost") from error
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR}:
            raise _refused(path, str(error)) from error
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise Unavailable("state_in_use", f"{path} is locked by another program: close it") from error
        if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            raise Corrupt(
                "not_a_record",
                f"{path} is no database, or a damaged one ({error}): move it away; the edge then starts a new epoch",
            ) from error
        raise
