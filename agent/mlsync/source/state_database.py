"""The SQLite file of the local state: its schema, how it is opened, and what happens when it is damaged."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, cast

from mlsync.errors import StateDamaged, StateError, StateFull
from mlsync.source.paths import display

_APPLICATION_ID: Final = 0x6D6C7331  # "mls1"
_SCHEMA_VERSION: Final = 6
# Added in the second version: an older state gets these tables when it is opened, and keeps its rows.
_SINCE_2: Final = (
    # Versions that were committed below the required level.
    "CREATE TABLE pending (run TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (run, number)) WITHOUT ROWID",
    # Packs that were found damaged: a run stores what it needs of them again.
    "CREATE TABLE damaged (run TEXT NOT NULL, pack BLOB NOT NULL, PRIMARY KEY (run, pack)) WITHOUT ROWID",
    # When a periodic action was done last.
    "CREATE TABLE times (run TEXT NOT NULL, name TEXT NOT NULL, at_ns INTEGER NOT NULL, PRIMARY KEY (run, name))",
)
# Added in the third version.
_SINCE_3: Final = (
    # The writer id that this machine uses for a run and directory, with the version that it committed last (or found
    # there) and the one that it was about to commit.
    """CREATE TABLE writers (run TEXT NOT NULL, directory BLOB NOT NULL, id BLOB NOT NULL, last_number INTEGER NOT NULL,
       last_ns INTEGER NOT NULL, next_number INTEGER NOT NULL, next_ns INTEGER NOT NULL,
       PRIMARY KEY (run, directory)) WITHOUT ROWID""",
)
# Added in the fourth version.
_SINCE_4: Final = (
    # Objects under a version's name that did not open, with their stamp in the listing: they are not opened again.
    """CREATE TABLE unreadable (run TEXT NOT NULL, number INTEGER NOT NULL, stamp TEXT NOT NULL,
       PRIMARY KEY (run, number)) WITHOUT ROWID""",
)
# Added in the fifth version.
_SINCE_5: Final = (
    # The version that a node which cannot read was about to commit: it knows it by its digest alone.
    "CREATE TABLE sealed (run TEXT PRIMARY KEY, number INTEGER NOT NULL, digest BLOB NOT NULL)",
)
# Changed in the sixth version: pieces say which tensor they are of. Without pieces, a file that changed is cut anew.
_SINCE_6: Final = ("UPDATE files SET pieces = x''",)
_MIGRATIONS: Final = ((2, _SINCE_2), (3, _SINCE_3), (4, _SINCE_4), (5, _SINCE_5), (6, _SINCE_6))
_SCHEMA: Final = (
    "CREATE TABLE seed (value BLOB NOT NULL)",
    # The newest version of a run that was seen: a store that lists only older ones was rolled back.
    "CREATE TABLE heads (run TEXT PRIMARY KEY, number INTEGER NOT NULL, digest BLOB NOT NULL)",
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE)",
    """CREATE TABLE files (run_id INTEGER NOT NULL, path BLOB NOT NULL, stat BLOB NOT NULL, entry BLOB NOT NULL,
       pieces BLOB NOT NULL, UNIQUE (run_id, path))""",
    # Where a chunk lies in the store.
    "CREATE TABLE chunks (name BLOB PRIMARY KEY, pack BLOB NOT NULL, location BLOB NOT NULL) WITHOUT ROWID",
    "CREATE INDEX chunks_by_pack ON chunks (pack)",
    *_SINCE_2,
    *_SINCE_3,
    *_SINCE_4,
    *_SINCE_5,
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
_BUSY_TIMEOUT_S: Final = 10.0
_UNREADABLE_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY_CODES: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_ADVICE: Final = "the file only holds hints and may be deleted"


class StateDatabase:
    """The file, open. Safe to call from several threads; a transaction is done whole or not at all.

    Errors are ``StateFull``, ``StateDamaged`` (the file was renamed, and the next ``open`` starts a new one, or it
    cannot be opened at all) and ``StateError`` (another process holds it).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._is_aside = False
        with self._translating():
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._translating():
                self._prepare()
                self.seed = self._read_seed()
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the state at *path*, or create one.

        What is no file or no state, is damaged or has an unknown schema is renamed to ``<name>.damaged-N``, and a new
        state is created. Only this user can read the file, and the directory if it was created here.
        """
        _make_private(path)
        try:
            return cls(path)
        except _PutAside:
            _make_private(path)
            return cls(path)

    @property
    def directory(self) -> Path:
        """The directory of the state and of the other files that this machine keeps for the repository."""
        return self._path.parent

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _prepare(self) -> None:
        connection = self._connection
        # Checked before anything is written, because it may be another program's database.
        with self._transaction("BEGIN"):
            self._is_new()
        # With WAL and NORMAL a power cut may undo the last commits but damages nothing, which is enough for hints.
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait here. The process that holds the file switches it to WAL, or the next open does.
            if error.sqlite_errorcode & 0xFF not in _BUSY_CODES:
                raise
        connection.execute("PRAGMA synchronous = NORMAL")
        # One transaction: two processes may start at once, and one that dies here leaves an empty file.
        with self._transaction():
            if self._is_new():
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute("INSERT INTO seed VALUES (?)", (os.urandom(8),))
            elif self._schema_version() < _SCHEMA_VERSION:
                self._migrate()

    def _migrate(self) -> None:
        known = self._schema_version()
        for version, statements in _MIGRATIONS:
            for statement in statements if version > known else ():
                self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _is_new(self) -> bool:
        """Return whether the database is empty; raise if it is another program's. Call within a transaction."""
        ((application_id,),) = self._connection.execute("PRAGMA application_id")
        schema_version = self._schema_version()
        ((table_count,),) = self._connection.execute("SELECT count(*) FROM sqlite_schema")
        if (application_id, schema_version, table_count) == (0, 0, 0):
            return True
        if application_id != _APPLICATION_ID or not 1 <= schema_version <= _SCHEMA_VERSION:
            raise UnknownState
        return False

    def _schema_version(self) -> int:
        ((version,),) = self._connection.execute("PRAGMA user_version")
        return cast("int", version)

    def _read_seed(self) -> int:
        """Return the seed of this state's xxh3 digests; it is random, so that nobody can prepare colliding pieces."""
        rows = self._connection.execute("SELECT value FROM seed").fetchall()
        if len(rows) != 1 or not isinstance(rows[0][0], bytes):
            raise UnknownState
        return int.from_bytes(rows[0][0], "little")

    def _query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._translating():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        with self._lock, self._translating():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _translating(self) -> Iterator[None]:
        where = display(os.fsencode(self._path))
        try:
            yield
        except UnknownState as error:
            raise self._put_aside(where) from error
        except sqlite3.ProgrammingError as error:
            # Another thread found the damage and closed the file; otherwise it is a bug.
            if not self._is_aside:
                raise
            raise StateDamaged("the local state is damaged and was put aside", where=where) from error
        except sqlite3.Error as error:
            extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            code = extended & 0xFF
            if code in _UNREADABLE_CODES:
                raise self._put_aside(where) from error
            # The shared-memory file beside the database cannot grow: also a full disk.
            if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
                raise StateFull("no room for the local state", where=where) from error
            if code in _BUSY_CODES:
                raise StateError("the local state is in use by another process", where=where) from error
            raise StateDamaged(f"the local state cannot be used: {error}", where=where, advice=_ADVICE) from error

    def _put_aside(self, where: str) -> StateDamaged:
        """Close and rename the file, so that the next ``open`` creates one."""
        if hasattr(self, "_connection"):
            self._connection.close()
        self._is_aside = True
        try:
            aside = _rename_aside(self._path)
        except OSError as error:
            return StateDamaged(f"the local state is damaged: {error.strerror}", where=where, advice=_ADVICE)
        return _PutAside("the local state is damaged and was put aside", where=display(os.fsencode(aside)))


class UnknownState(Exception):
    """The file is a database of another program."""


class _PutAside(StateDamaged):
    """The file was damaged and has been renamed; opening again creates a new one."""


def _make_private(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Created without being opened: closing a descriptor would drop the locks of another State in this process.
            os.mknod(path, 0o600 | stat.S_IFREG)
        except FileExistsError:
            if not path.is_file():
                # A directory, say, or a link to nothing: SQLite would fail each time.
                _rename_aside(path)
                os.mknod(path, 0o600 | stat.S_IFREG)
            os.chmod(path, 0o600)
    except OSError as error:
        where = display(os.fsencode(path))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StateFull("no room for the local state", where=where) from error
        raise StateDamaged(f"the local state cannot be opened: {error.strerror}", where=where) from error


def _rename_aside(path: Path) -> str:
    """Rename what is at *path* and SQLite's files beside it, through which a fresh file would be read; return where."""
    aside = _free_name(path)
    for suffix in ("", "-wal", "-shm"):
        source = f"{path}{suffix}"
        if os.path.lexists(source):
            os.rename(source, f"{aside}{suffix}")
    return aside


def _free_name(path: Path) -> str:
    number = 1
    while os.path.lexists(f"{path}.damaged-{number}"):
        number += 1
    return f"{path}.damaged-{number}"
