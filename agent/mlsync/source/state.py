"""What this machine knows of its runs: hints that save work, in an SQLite file that may be deleted at any time."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import quote

import msgspec

from mlsync.errors import StateDamaged
from mlsync.source.cached_file import CachedFile
from mlsync.source.paths import display
from mlsync.source.state_database import StateDatabase, UnknownState

# Few rows, because the row of a large file has all of its pieces and chunks.
_PAGE: Final = """SELECT {columns} FROM files
    WHERE run_id = (SELECT id FROM runs WHERE run = ?) AND path > ? ORDER BY path LIMIT 256"""


# SQLite's own bound was 999 for long.
_NAMES_AT_ONCE: Final = 512


class Head(msgspec.Struct, frozen=True):
    """The newest version of a run that this machine saw, with its manifest's digest."""

    number: int
    digest: bytes


class Made(msgspec.Struct, frozen=True):
    """What identifies a version: its number and its creation time."""

    number: int
    created_ns: int


class KnownWriter(msgspec.Struct, frozen=True):
    """The id under which this machine writes a run from a directory, and the versions that it may have written last."""

    id: bytes
    made: frozenset[Made]


class State(StateDatabase):
    """What this machine knows of its runs: the newest versions, the files cache, the chunk index, the writers."""

    def head(self, run: str) -> Head | None:
        """Return the head that ``set_head`` recorded last."""
        for number, digest in self._query("SELECT number, digest FROM heads WHERE run = ?", run):
            return Head(number, digest)
        return None

    def set_head(self, run: str, head: Head) -> None:
        """Record the newest version of *run*."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", (run, head.number, head.digest))

    def sealed(self, run: str) -> Head | None:
        """Return what ``set_sealed`` recorded last."""
        for number, digest in self._query("SELECT number, digest FROM sealed WHERE run = ?", run):
            return Head(number, digest)
        return None

    def set_sealed(self, run: str, sealed: Head) -> None:
        """Record, before the commit, number and digest of a version that this machine could not open afterwards."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO sealed VALUES (?, ?, ?)", (run, sealed.number, sealed.digest))

    def cached_files(self, run: str) -> dict[bytes, CachedFile]:
        """Return the run's files cache, by path."""
        rows = self._pages("path, stat, entry, pieces", run)
        with self._translating():
            try:
                return {path: CachedFile.unpacked(packed, entry, pieces) for path, packed, entry, pieces in rows}
            except ValueError as error:
                raise UnknownState from error

    def file_rows(self, run: str) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Return path, packed stat (for ``is_same``) and entry of each file, in path order, a page at a time.

        The run must not be changed meanwhile.
        """
        return self._pages("path, stat, entry", run)

    def _pages(self, columns: str, run: str) -> Iterator[tuple[Any, ...]]:
        last = b""
        # Page by page: an open query would block the writes of other threads and processes.
        while page := self._query(_PAGE.format(columns=columns), run, last):
            yield from page
            last = page[-1][0]

    def replace_files(self, run: str, changed: Iterable[tuple[bytes, CachedFile]], removed: Iterable[bytes]) -> None:
        """Replace the rows of *changed*, each with its path, and delete those of *removed*."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO runs (run) VALUES (?)", (run,))
            ((run_id,),) = connection.execute("SELECT id FROM runs WHERE run = ?", (run,))
            connection.executemany("DELETE FROM files WHERE run_id = ? AND path = ?", ((run_id, p) for p in removed))
            connection.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                ((run_id, path, *row.packed()) for path, row in changed),
            )

    def has_chunks(self) -> bool:
        """Return whether the chunk index has any chunk."""
        return bool(self._query("SELECT 1 FROM chunks LIMIT 1"))

    def chunk(self, name: bytes) -> bytes | None:
        """Return the location of a chunk, if the chunk index has it; the caller checks that it still holds."""
        for (location,) in self._query("SELECT location FROM chunks WHERE name = ?", name):
            return cast("bytes", location)
        return None

    def chunks(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the same for many chunks, by name; those that the chunk index does not have are left out."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(names), _NAMES_AT_ONCE):
            some = names[start : start + _NAMES_AT_ONCE]
            places = ",".join("?" * len(some))
            found.update(self._query(f"SELECT name, location FROM chunks WHERE name IN ({places})", *some))  # noqa: S608 - question marks alone
        return found

    def add_chunks(self, items: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Add (name, pack, location) of each chunk, best in the order of names; a known name gets the new location."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", items)

    def forget_packs(self, packs: Iterable[bytes]) -> None:
        """Delete every chunk in one of the *packs*."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM chunks WHERE pack = ?", ((pack,) for pack in packs))

    def unreadable(self, run: str) -> dict[int, str]:
        """Return what ``add_unreadable`` recorded: stamps by number."""
        rows = self._query("SELECT number, stamp FROM unreadable WHERE run = ?", run)
        return dict(rows)

    def add_unreadable(self, run: str, stamps: Mapping[int, str]) -> None:
        """Record that the objects under these versions' names do not open."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO unreadable VALUES (?, ?, ?)",
                ((run, number, stamp) for number, stamp in stamps.items()),
            )

    def pending(self, run: str) -> list[int]:
        """Return the versions that ``add_pending`` recorded and ``drop_pending`` has not removed, the newest first."""
        rows = self._query("SELECT number FROM pending WHERE run = ? ORDER BY number DESC", run)
        return [number for (number,) in rows]

    def add_pending(self, run: str, number: int) -> None:
        """Record that a version still has to be proved."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO pending VALUES (?, ?)", (run, number))

    def drop_pending(self, run: str, number: int) -> None:
        """Remove that record."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM pending WHERE run = ? AND number = ?", (run, number))

    def damaged(self, run: str) -> set[bytes]:
        """Return the packs that ``add_damaged`` recorded and whose content this run has not stored again since."""
        return {pack for (pack,) in self._query("SELECT pack FROM damaged WHERE run = ?", run)}

    def add_damaged(self, packs: Iterable[bytes]) -> None:
        """Record for every run that these packs are damaged, and delete their chunks."""
        packs = list(packs)
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO damaged SELECT run, ? FROM heads", ((pack,) for pack in packs)
            )
            connection.executemany("DELETE FROM chunks WHERE pack = ?", ((pack,) for pack in packs))

    def drop_damaged(self, run: str, packs: Iterable[bytes]) -> None:
        """Record that the run no longer uses these packs."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM damaged WHERE run = ? AND pack = ?", ((run, pack) for pack in packs))

    def last_ns(self, run: str, name: str) -> int | None:
        """Return the time that ``set_last_ns`` set for the action *name* of the run, if any."""
        for (at_ns,) in self._query("SELECT at_ns FROM times WHERE run = ? AND name = ?", run, name):
            return cast("int", at_ns)
        return None

    def set_last_ns(self, run: str, name: str, at_ns: int) -> None:
        """Record when the action was done."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO times VALUES (?, ?, ?)", (run, name, at_ns))

    def writer(self, run: str, directory: bytes) -> KnownWriter | None:
        """Return what ``begin_version`` recorded last for the run and *directory*."""
        columns = "id, last_number, last_ns, next_number, next_ns"
        for row in self._query(f"SELECT {columns} FROM writers WHERE run = ? AND directory = ?", run, directory):  # noqa: S608
            writer_id, last_number, last_ns, next_number, next_ns = row
            return KnownWriter(writer_id, frozenset({Made(last_number, last_ns), Made(next_number, next_ns)}))
        return None

    def begin_version(self, run: str, directory: bytes, writer_id: bytes, last: Made, following: Made) -> None:
        """Record, before the commit, that *following* is written after *last*: a crash leaves either as the newest."""
        values = (run, directory, writer_id, last.number, last.created_ns, following.number, following.created_ns)
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO writers VALUES (?, ?, ?, ?, ?, ?, ?)", values)


class StateReader:
    """A state that is read and never changed, not even if it is damaged: ``StateDamaged`` says that it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Without a write-ahead log the file is complete, and ``immutable`` lets SQLite read it where it cannot write.
        mode = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
        with self._translating():
            self._connection = sqlite3.connect(f"file:{quote(bytes(path))}?{mode}", uri=True)

    def __enter__(self) -> Self:
        """Return itself; it is closed at the end of the ``with``."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self._connection.close()

    def heads(self) -> dict[str, Head]:
        """Return the newest version of each run that this machine saw, by name."""
        rows = self._query("SELECT run, number, digest FROM heads")
        return {run: Head(number, digest) for run, number, digest in rows}

    def newest_made(self) -> dict[str, Made]:
        """Return the same with the times at which they were made, 0 where another machine did."""
        when = "MAX(CASE number WHEN next_number THEN next_ns WHEN last_number THEN last_ns ELSE 0 END)"
        table = "heads LEFT JOIN writers USING (run)"
        rows = self._query(f"SELECT heads.run, number, {when} FROM {table} GROUP BY heads.run, number")  # noqa: S608 - nothing of it is from outside
        return {run: Made(number, created_ns or 0) for run, number, created_ns in rows}

    def writes(self, run: str, directory: bytes) -> bool:
        """Return whether *directory* was backed up as *run* with this state."""
        return bool(self._query("SELECT 1 FROM writers WHERE run = ? AND directory = ?", run, directory))

    def damaged(self, run: str) -> set[bytes]:
        """Return the same as ``State.damaged``."""
        return {pack for (pack,) in self._query("SELECT pack FROM damaged WHERE run = ?", run)}

    def file_rows(self, run: str) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Return the same as ``State.file_rows``."""
        last = b""
        while page := self._query(_PAGE.format(columns="path, stat, entry"), run, last):
            yield from page
            last = page[-1][0]

    def _query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._translating():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            where = display(os.fsencode(self.path))
            raise StateDamaged(f"the local state cannot be read: {error}", where=where) from error


def seen_heads(path: Path) -> dict[str, Head]:
    """Return the newest version of each run that this machine saw, by name, without changing the state.

    Empty if there is no state that this user can read.
    """
    try:
        with StateReader(path) as state:
            return state.heads()
    except StateDamaged:
        return {}


def newest_made(path: Path) -> dict[str, Made]:
    """Return the newest version of each run that this machine saw, like ``seen_heads``.

    Its creation time is 0 where another machine made it.
    """
    try:
        with StateReader(path) as state:
            return state.newest_made()
    except StateDamaged:
        return {}
