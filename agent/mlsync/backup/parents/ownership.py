"""Whose run is it? Decide whether this directory may add a version to a run, by who made the newest one.

The table of cases is docs/runs.md. It follows two rules: two directories never mix in one history unnoticed, and
an unattended restart never waits for a person.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from mlsync.backup.parents.parent import Parent
from mlsync.beneath import Beneath
from mlsync.codec.digest import FileDigester
from mlsync.errors import RunOfAnother
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.encoding.validation import ORIGIN_BYTES
from mlsync.repository.manifest import Entry, Origin
from mlsync.source.machine import machine_mark
from mlsync.source.paths import display
from mlsync.source.scan import Scan
from mlsync.source.state import KnownWriter, Made, State
from mlsync.source.takeover import NewestWriter, may_take_over

_SECOND_NS: Final = 10**9
# A shorter log may be the same in every run: a line of column names.
_LOG_BYTES_MIN: Final = 64
_LOG_BYTES_MAX: Final = 256 << 20
_LOGS_READ_MAX: Final = 16
_BLOCK_BYTES: Final = 1 << 20


class Claim(Enum):
    """Why a directory may continue a run."""

    FIRST = "the run has no version yet"
    SAME_WRITER = "this directory made the newest version"
    HANDED_OVER = "a version was restored here, or the run was taken over with --take-over"
    SAME_PLACE = "the same directory on the same machine made the newest version"
    SAME_CONTENT = "the directory of the same path holds what the newest version holds"


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes the next version of a run, and why that may be."""

    origin: Origin
    host: str
    directory: bytes
    claim: Claim


@dataclass(frozen=True, slots=True)
class Here:
    """A run's directory as a backup finds it.

    *remembered* are the digests of the run's files in the files cache; *before* returns those of the version before the
    newest one.
    """

    run: str
    directory: bytes
    tree: Scan
    remembered: Mapping[bytes, bytes]
    before: Callable[[], Mapping[bytes, bytes]]


def next_writer(here: Here, parent: Parent, state: State) -> Writer:
    """Return who continues the run from here, or raise ``RunOfAnother``; the local state does not change."""
    known = state.writer(here.run, here.directory)
    host, machine = socket.gethostname(), machine_mark()
    claim = _claim(here, parent, state, known, (host, machine))
    # If another writer uses the same id, as after a copy of a machine with its local state, take a new one.
    is_shared = known is not None and claim is not Claim.SAME_WRITER and known.id == _origin_of(parent).id
    writer_id = os.urandom(ORIGIN_BYTES) if known is None or is_shared else known.id
    return Writer(Origin(writer_id, machine), host, here.directory, claim)


def _claim(here: Here, parent: Parent, state: State, known: KnownWriter | None, machine: tuple[str, bytes]) -> Claim:
    """Return the first claim that holds, the cheapest first; only the last one reads the store and the disk."""
    if not parent.number:
        return Claim.FIRST
    if parent.is_closed:
        if may_take_over(state.directory, here.run, here.directory):
            return Claim.HANDED_OVER
        raise _of_somebody(here, parent)
    origin = _origin_of(parent)
    if known is not None and known.id == origin.id and Made(parent.number, parent.created_ns) in known.made:
        return Claim.SAME_WRITER
    if may_take_over(state.directory, here.run, here.directory, NewestWriter(parent.number, origin.id)):
        return Claim.HANDED_OVER
    is_same_path = here.directory == parent.directory
    if is_same_path and origin.machine and machine == (parent.host, origin.machine):
        return Claim.SAME_PLACE
    if is_same_path and _goes_on(here, parent, known):
        return Claim.SAME_CONTENT
    raise _of_another(here, parent, machine[0])


def _goes_on(here: Here, parent: Parent, known: KnownWriter | None) -> bool:
    """Return whether the directory has what the newest version added to the one before: older files prove nothing.

    Two copies of one disk have the older files in common. The files cache knows what this directory added itself;
    otherwise the version before the newest one says what is older.
    """
    if not here.tree.found and not here.tree.problems:
        # Nothing can be mixed; an empty directory is refused for being empty.
        return True
    earlier = here.before() if known is None else here.remembered
    return RunContent(here, parent.entries.values(), earlier).goes_on()


def _origin_of(parent: Parent) -> Origin:
    return parent.origin or Origin(b"")


def _of_somebody(here: Here, parent: Parent) -> RunOfAnother:
    """Return the error for a version that this node did not make, as far as its local state knows, and cannot open."""
    what = (
        f"version {parent.number} of run {here.run!r} was not made from {display(here.directory)} with this local "
        "state, and a write-only key opens no version, to see who made it"
    )
    advice = (
        "if this directory goes on with that run, as when the local state was lost: "
        f'mlsync backup --take-over {here.run}; else set run = "another name" under [[watch]]'
    )
    return RunOfAnother(what, advice=advice)


def _of_another(here: Here, parent: Parent, host: str) -> RunOfAnother:
    made = datetime.fromtimestamp(parent.created_ns // _SECOND_NS).astimezone().isoformat(" ", "seconds")
    what = (
        f"run {here.run!r} is written from {display(parent.directory)} on {parent.host}, "
        f"which made version {parent.number} at {made}; no version was made from {display(here.directory)} on {host}"
    )
    advice = (
        'for a run of its own set run = "another name" under [[watch]]; if this directory goes on with that run: '
        f"mlsync backup --take-over {here.run}"
    )
    if RunContent(here, parent.entries.values(), {}).is_alike():
        advice = f"most files are the same here; {advice}"
    return RunOfAnother(what, advice=advice)


class RunContent:
    """Compares a directory with what a version added to what was there *earlier*.

    It compares stats, and reads few bytes if those leave it open.
    """

    def __init__(self, here: Here, entries: Iterable[Entry], earlier: Mapping[bytes, bytes]) -> None:
        self._directory = here.directory
        self._found = {one.path: one for one in here.tree.found if one.kind == "file"}
        files = [entry for entry in entries if entry.kind is EntryKind.FILE and entry.size_bytes]
        self._files = [entry for entry in files if earlier.get(entry.path) != entry.digest]
        # Only a file system that keeps no fractions of seconds makes every time a whole second.
        self._is_coarse = all(entry.mtime_ns % _SECOND_NS == 0 for entry in self._files)
        self._same = [entry for entry in self._files if self._is_same(entry)]

    def is_alike(self) -> bool:
        """Return whether most files are the same by their stats."""
        return 2 * len(self._same) >= len(self._files)

    def goes_on(self) -> bool:
        """Return whether the directory goes on from the version."""
        if self.is_alike() or any(entry.proof is not None for entry in self._same):
            return True
        return self._a_log_grew() or self._is_equal()

    def _is_same(self, entry: Entry) -> bool:
        """Return whether the very file seems to be there: times to the nanosecond do not agree by chance."""
        found = self._found.get(entry.path)
        is_distinct = self._is_coarse or entry.mtime_ns % _SECOND_NS != 0
        return (
            found is not None
            and is_distinct
            and (found.stat.size_bytes, found.stat.mtime_ns) == (entry.size_bytes, entry.mtime_ns)
        )

    def _a_log_grew(self) -> bool:
        """Return whether a file has grown since the version: no other run wrote the same lines."""
        grown = [
            entry
            for entry in self._files
            if _LOG_BYTES_MIN <= entry.size_bytes <= _LOG_BYTES_MAX
            and (found := self._found.get(entry.path)) is not None
            and found.stat.size_bytes > entry.size_bytes
        ]
        grown.sort(key=lambda entry: entry.size_bytes)
        return any(map(self._begins_as, grown[:_LOGS_READ_MAX]))

    def _is_equal(self) -> bool:
        """Return whether every file is there with the same bytes, as in a copy that lost its times."""
        by_size = sorted(self._files, key=lambda entry: entry.size_bytes)
        sizes = {path: one.stat.size_bytes for path, one in self._found.items()}
        has_all = all(sizes.get(entry.path) == entry.size_bytes for entry in by_size)
        return has_all and all(map(self._begins_as, by_size))

    def _begins_as(self, entry: Entry) -> bool:
        with suppress(OSError), Beneath.open(self._directory) as directory:
            descriptor = directory.open_file(entry.path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                return _digest_of(descriptor, entry) == entry.digest
            finally:
                os.close(descriptor)
        return False


def _digest_of(descriptor: int, entry: Entry) -> bytes:
    """Return the digest of what the file has now where the version has content; it does not look into holes."""
    digester, at = FileDigester(entry.digest[0], entry.holes), 0
    for offset, length in (*entry.holes, (entry.size_bytes, 0)):
        while at < offset and (block := os.pread(descriptor, min(_BLOCK_BYTES, offset - at), at)):
            digester.update(block)
            at += len(block)
        at = offset + length
    return digester.digest()
