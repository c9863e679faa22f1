"""What this machine remembers of its runs: hints that spare work, in an SQLite file that may be deleted any time."""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import quote

from mlsync.errors import StateDamaged, StateError, StateFull
from mlsync.source.cached_file import CachedFile, CachedPiece, is_same
from mlsync.source.paths import display

__all__ = ["CachedFile", "CachedPiece", "Head", "KnownWriter", "Made", "State", "is_same", "seen_heads"]

_APPLICATION_ID: Final = 0x6D6C7331  # "mls1"
_SCHEMA_VERSION: Final = 4
# What came with the second version: a state of the first gets it when it is opened, and keeps all that it knows.
_SINCE_2: Final = (
    # Versions that were committed below the level that was required of them.
    "CREATE TABLE pending (run TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (run, number)) WITHOUT ROWID",
    # Packs that were seen to be damaged: what a run needs of them is to be stored again.
    "CREATE TABLE damaged (run TEXT NOT NULL, pack BLOB NOT NULL, PRIMARY KEY (run, pack)) WITHOUT ROWID",
    # When something was done last that is done now and then.
    "CREATE TABLE times (run TEXT NOT NULL, name TEXT NOT NULL, at_ns INTEGER NOT NULL, PRIMARY KEY (run, name))",
)
# What came with the third.
_SINCE_3: Final = (
    # Who this machine is to a run when it backs a directory up, with the version that it made last (or found there) and
    # the one that it was about to make when it wrote this.
    """CREATE TABLE writers (run TEXT NOT NULL, directory BLOB NOT NULL, id BLOB NOT NULL, last_number INTEGER NOT NULL,
       last_ns INTEGER NOT NULL, next_number INTEGER NOT NULL, next_ns INTEGER NOT NULL,
       PRIMARY KEY (run, directory)) WITHOUT ROWID""",
)
# What came with the fourth.
_SINCE_4: Final = (
    # Objects in a version's place that did not open, with what a listing said of them: they are not looked at again.
    """CREATE TABLE unreadable (run TEXT NOT NULL, number INTEGER NOT NULL, stamp TEXT NOT NULL,
       PRIMARY KEY (run, number)) WITHOUT ROWID""",
)
_MIGRATIONS: Final = ((2, _SINCE_2), (3, _SINCE_3), (4, _SINCE_4))
_SCHEMA: Final = (
    "CREATE TABLE seed (value BLOB NOT NULL)",
    # The newest version that was seen of a run: a store that shows less was rolled back.
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
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
# Few rows, for the row of a large file names all of its pieces and chunks.
_PAGE: Final = """SELECT {columns} FROM files
    WHERE run_id = (SELECT id FROM runs WHERE run = ?) AND path > ? ORDER BY path LIMIT 256"""
_BUSY_TIMEOUT_S: Final = 10.0
_UNREADABLE_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY_CODES: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_ADVICE: Final = "the file only holds hints and may be deleted"


@dataclass(frozen=True, slots=True)
class Head:
    """The newest version of a run that this machine saw, with its manifest's digest."""

    number: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Made:
    """A version by what no other one shares with it: its number and the moment that it says it was made at."""

    number: int
    created_ns: int


@dataclass(frozen=True, slots=True)
class KnownWriter:
    """The id under which this machine writes a run from one directory, and the versions that it may have made last."""

    id: bytes
    made: frozenset[Made]


class State:
    """The local state, open. Safe to call from several threads; a call that changes something does all of it or none.

    Errors are ``StateFull``, ``StateDamaged`` (the file was then put aside, and the next ``open`` begins a new one,
    or it cannot be opened at all) and ``StateError`` (another process holds it).
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
        """Open the state at *path*, or begin one.

        A file that is no state, is damaged or has another schema is renamed to ``<name>.damaged-N`` and a new one is
        begun. Only this user can read the file, and the directory if it was made here.
        """
        _make_private(path)
        try:
            return cls(path)
        except _PutAside:
            _make_private(path)
            return cls(path)

    @property
    def directory(self) -> Path:
        """Where the state lies, with what else this machine keeps of the repository."""
        return self._path.parent

    def head(self, run: str) -> Head | None:
        """Give what ``set_head`` set last."""
        for number, digest in self._query("SELECT number, digest FROM heads WHERE run = ?", run):
            return Head(number, digest)
        return None

    def set_head(self, run: str, head: Head) -> None:
        """Remember the newest version of *run*."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", (run, head.number, head.digest))

    def remembered(self, run: str) -> dict[bytes, CachedFile]:
        """Give everything remembered of the run's files, by path."""
        rows = self._pages("path, stat, entry, pieces", run)
        with self._translating():
            try:
                return {path: CachedFile.unpacked(packed, entry, pieces) for path, packed, entry, pieces in rows}
            except ValueError as error:
                raise _Unknown from error

    def rows(self, run: str) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Give path, packed stat (for ``is_same``) and entry of each file, in the order of paths and never all at once.

        The run is not to be changed meanwhile.
        """
        return self._pages("path, stat, entry", run)

    def _pages(self, columns: str, run: str) -> Iterator[tuple[Any, ...]]:
        last = b""
        # Page by page: a query that is left open would keep other threads' and processes' changes waiting.
        while page := self._query(_PAGE.format(columns=columns), run, last):
            yield from page
            last = page[-1][0]

    def replace_files(self, run: str, changed: Mapping[bytes, CachedFile], removed: Iterable[bytes]) -> None:
        """Remember *changed* anew and forget *removed*."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO runs (run) VALUES (?)", (run,))
            ((run_id,),) = connection.execute("SELECT id FROM runs WHERE run = ?", (run,))
            connection.executemany("DELETE FROM files WHERE run_id = ? AND path = ?", ((run_id, p) for p in removed))
            connection.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                ((run_id, path, *row.packed()) for path, row in changed.items()),
            )

    def chunk(self, name: bytes) -> bytes | None:
        """Give the location of a chunk, if one is remembered; whether it still holds is the caller's to check."""
        for (location,) in self._query("SELECT location FROM chunks WHERE name = ?", name):
            return cast("bytes", location)
        return None

    def add_chunks(self, items: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Remember (name, pack, location) of each chunk; a name known before gets the new location."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", items)

    def forget_packs(self, packs: Iterable[bytes]) -> None:
        """Forget every chunk that lies in one of the *packs*."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM chunks WHERE pack = ?", ((pack,) for pack in packs))

    def unreadable(self, run: str) -> dict[int, str]:
        """Give what ``add_unreadable`` noted: stamps by number."""
        rows = self._query("SELECT number, stamp FROM unreadable WHERE run = ?", run)
        return dict(rows)

    def add_unreadable(self, run: str, stamps: Mapping[int, str]) -> None:
        """Remember that what stands in the places of these versions does not open."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO unreadable VALUES (?, ?, ?)",
                ((run, number, stamp) for number, stamp in stamps.items()),
            )

    def pending(self, run: str) -> list[int]:
        """Give the numbers that ``add_pending`` noted and ``drop_pending`` did not drop, the newest first."""
        rows = self._query("SELECT number FROM pending WHERE run = ? ORDER BY number DESC", run)
        return [number for (number,) in rows]

    def add_pending(self, run: str, number: int) -> None:
        """Remember that a version still is to be proved."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO pending VALUES (?, ?)", (run, number))

    def drop_pending(self, run: str, number: int) -> None:
        """Forget it again."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM pending WHERE run = ? AND number = ?", (run, number))

    def damaged(self, run: str) -> set[bytes]:
        """Give the packs that ``add_damaged`` noted and whose content this run did not store again since."""
        return {pack for (pack,) in self._query("SELECT pack FROM damaged WHERE run = ?", run)}

    def add_damaged(self, packs: Iterable[bytes]) -> None:
        """Remember for every run that these packs are damaged, and forget what lies in them."""
        packs = list(packs)
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO damaged SELECT run, ? FROM heads", ((pack,) for pack in packs)
            )
            connection.executemany("DELETE FROM chunks WHERE pack = ?", ((pack,) for pack in packs))

    def drop_damaged(self, run: str, packs: Iterable[bytes]) -> None:
        """Say that the run relies on these packs no longer."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM damaged WHERE run = ? AND pack = ?", ((run, pack) for pack in packs))

    def last_ns(self, run: str, name: str) -> int | None:
        """Give the moment that ``set_last_ns`` set for what *name* is done of the run, if it ever was."""
        for (at_ns,) in self._query("SELECT at_ns FROM times WHERE run = ? AND name = ?", run, name):
            return cast("int", at_ns)
        return None

    def set_last_ns(self, run: str, name: str, at_ns: int) -> None:
        """Remember when it was done."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO times VALUES (?, ?, ?)", (run, name, at_ns))

    def writer(self, run: str, directory: bytes) -> KnownWriter | None:
        """Give what ``begin_version`` noted last of the run as it is backed up from *directory*."""
        columns = "id, last_number, last_ns, next_number, next_ns"
        for row in self._query(f"SELECT {columns} FROM writers WHERE run = ? AND directory = ?", run, directory):  # noqa: S608
            writer_id, last_number, last_ns, next_number, next_ns = row
            return KnownWriter(writer_id, frozenset({Made(last_number, last_ns), Made(next_number, next_ns)}))
        return None

    def begin_version(self, run: str, directory: bytes, writer_id: bytes, last: Made, following: Made) -> None:
        """Remember, before it is committed, that *following* is made on top of *last*: a crash leaves either newest."""
        values = (run, directory, writer_id, last.number, last.created_ns, following.number, following.created_ns)
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO writers VALUES (?, ?, ?, ?, ?, ?, ?)", values)

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
        # Looked at before anything is written, since it may be another program's database.
        with self._transaction("BEGIN"):
            self._is_new()
        # With WAL and NORMAL a power cut may undo the last commits but damages nothing: enough for hints.
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait here. Who holds the file either makes it a WAL one now, or the next open will.
            if error.sqlite_errorcode & 0xFF not in _BUSY_CODES:
                raise
        connection.execute("PRAGMA synchronous = NORMAL")
        # One transaction: two processes may begin at once, and one that dies here leaves an empty file.
        with self._transaction():
            if self._is_new():
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute("INSERT INTO seed VALUES (?)", (secrets.token_bytes(8),))
            elif self._schema_version() < _SCHEMA_VERSION:
                self._migrate()

    def _migrate(self) -> None:
        known = self._schema_version()
        for version, statements in _MIGRATIONS:
            for statement in statements if version > known else ():
                self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _is_new(self) -> bool:
        """Say whether the database is still empty; raise if it is neither that nor ours. Asked within a transaction."""
        ((application_id,),) = self._connection.execute("PRAGMA application_id")
        schema_version = self._schema_version()
        ((table_count,),) = self._connection.execute("SELECT count(*) FROM sqlite_schema")
        if (application_id, schema_version, table_count) == (0, 0, 0):
            return True
        if application_id != _APPLICATION_ID or not 1 <= schema_version <= _SCHEMA_VERSION:
            raise _Unknown
        return False

    def _schema_version(self) -> int:
        ((version,),) = self._connection.execute("PRAGMA user_version")
        return cast("int", version)

    def _read_seed(self) -> int:
        """Give the seed of this state's xxh3 digests: random, so that nobody can prepare pieces that collide."""
        rows = self._connection.execute("SELECT value FROM seed").fetchall()
        if len(rows) != 1 or not isinstance(rows[0][0], bytes):
            raise _Unknown
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
        except _Unknown as error:
            raise self._put_aside(where) from error
        except sqlite3.ProgrammingError as error:
            # Another thread found the damage and closed the file; else it is a bug of ours.
            if not self._is_aside:
                raise
            raise StateDamaged("the local state is damaged and was put aside", where=where) from error
        except sqlite3.Error as error:
            extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            code = extended & 0xFF
            if code in _UNREADABLE_CODES:
                raise self._put_aside(where) from error
            # The shared-memory file beside the database cannot grow: that too is a full disk.
            if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
                raise StateFull("no room for the local state", where=where) from error
            if code in _BUSY_CODES:
                raise StateError("the local state is in use by another process", where=where) from error
            raise StateDamaged(f"the local state cannot be used: {error}", where=where, advice=_ADVICE) from error

    def _put_aside(self, where: str) -> StateDamaged:
        """Close and rename the file, so that the next ``open`` finds none."""
        if hasattr(self, "_connection"):
            self._connection.close()
        self._is_aside = True
        aside = _free_name(self._path)
        try:
            for suffix in ("", "-wal", "-shm"):
                source = f"{self._path}{suffix}"
                if os.path.lexists(source):
                    os.rename(source, f"{aside}{suffix}")
        except OSError as error:
            return StateDamaged(f"the local state is damaged: {error.strerror}", where=where, advice=_ADVICE)
        return _PutAside("the local state is damaged and was put aside", where=display(os.fsencode(aside)))


def seen_heads(path: Path) -> dict[str, Head]:
    """Return the newest version of each run that this machine saw, by its name, without a change to the state.

    Nothing where there is none, or none that this user can read: a fresh machine knows no better than the store.
    """
    # Without the log of a writer that is at work, or was cut off, the file is all there is; and SQLite, which would
    # make a log of its own to read it, need not be able to write there.
    mode = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(f"file:{quote(bytes(path))}?{mode}", uri=True)
        with closing(connection):
            rows = connection.execute("SELECT run, number, digest FROM heads").fetchall()
    except sqlite3.Error:
        return {}
    return {run: Head(number, digest) for run, number, digest in rows}


class _Unknown(Exception):
    """The file is a database, but none of ours."""


class _PutAside(StateDamaged):
    """The file was damaged and has another name now; opening again begins a new one."""


def _make_private(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Made without being opened: closing a descriptor would drop the locks of another State in this process.
            os.mknod(path, 0o600 | stat.S_IFREG)
        except FileExistsError:
            os.chmod(path, 0o600)
    except OSError as error:
        where = display(os.fsencode(path))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StateFull("no room for the local state", where=where) from error
        raise StateDamaged(f"the local state cannot be opened: {error.strerror}", where=where) from error


def _free_name(path: Path) -> str:
    number = 1
    while os.path.lexists(f"{path}.damaged-{number}"):
        number += 1
    return f"{path}.damaged-{number}"
