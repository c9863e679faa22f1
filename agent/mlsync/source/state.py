"""What this machine remembers of its runs: hints that spare work, in an SQLite file that may be deleted any time."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from mlsync.source.cached_file import CachedFile
from mlsync.source.state_database import StateDatabase, UnknownState

# Few rows, for the row of a large file names all of its pieces and chunks.
_PAGE: Final = """SELECT {columns} FROM files
    WHERE run_id = (SELECT id FROM runs WHERE run = ?) AND path > ? ORDER BY path LIMIT 256"""


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


class State(StateDatabase):
    """What this machine knows of its runs: the newest versions, the files cache, the chunk index, the writers."""

    def head(self, run: str) -> Head | None:
        """Give what ``set_head`` set last."""
        for number, digest in self._query("SELECT number, digest FROM heads WHERE run = ?", run):
            return Head(number, digest)
        return None

    def set_head(self, run: str, head: Head) -> None:
        """Remember the newest version of *run*."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", (run, head.number, head.digest))

    def cached_files(self, run: str) -> dict[bytes, CachedFile]:
        """Give everything remembered of the run's files, by path."""
        rows = self._pages("path, stat, entry, pieces", run)
        with self._translating():
            try:
                return {path: CachedFile.unpacked(packed, entry, pieces) for path, packed, entry, pieces in rows}
            except ValueError as error:
                raise UnknownState from error

    def file_rows(self, run: str) -> Iterator[tuple[bytes, bytes, bytes]]:
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
