"""Write plain copies of files of a version, each with a file that ``sha256sum -c`` reads beside it.

A copy is there as a whole or not at all, and only after every byte of it was checked. What is there already is
compared by its SHA-256: the same is left alone, so that an export that ended early goes on, and anything else is not
overwritten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from mlsync.errors import CheckpointBroken, ExportRefused
from mlsync.monitor import Monitor
from mlsync.publish.chosen import choose
from mlsync.publish.register import sha256_of
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry, Manifest
from mlsync.repository.repository import Repository
from mlsync.restore.selection import paths_in_run, select_entries
from mlsync.source.paths import display
from mlsync.versions.stored_file import RestoredFile

SUFFIX: Final = b".sha256"


class CopyPlace(Protocol):
    """Where copies go."""

    def sha256(self, path: bytes, size_bytes: int, expected: str) -> str | None:
        """Return the SHA-256 in hex of what has the name *path*, or ``""`` for what is surely not *expected*.

        ``None`` if nothing is there.
        """

    def write(self, path: bytes, pieces: Iterator[memoryview], size_bytes: int, *, force: bool) -> None:
        """Make a copy, whole and durable; raise ``ExportRefused`` if something came there meanwhile, unless *force*."""

    def where(self, path: bytes) -> str:
        """Return the name for people."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What of the version (*paths* or patterns, else its one checkpoint), and whether to replace other files."""

    paths: tuple[bytes, ...] = ()
    force: bool = False
    stop: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Exported:
    """A copy: its path in the version, its size and SHA-256, where it is, and whether it *is_new*."""

    path: bytes
    size_bytes: int
    sha256: str
    where: str
    is_new: bool


def chosen_files(manifest: Manifest, paths: Iterable[bytes]) -> list[Entry]:
    """Return the files of a version that these paths mean; raise ``CheckpointBroken`` for one that does not load."""
    asked = list(paths) or [choose(manifest, None).path]
    entries = select_entries(manifest, paths_in_run(asked, (manifest.root.directory,)))
    files = [entry for entry in entries if entry.kind is EntryKind.FILE]
    for entry in files:
        if entry.proof is not None and entry.proof.is_broken:
            where = f"run {manifest.root.run}, version {manifest.root.number}"
            raise CheckpointBroken(f"{display(entry.path)} does not load, so it is not handed on", where=where)
    return files


def export(
    repository: Repository, files: Iterable[Entry], place: CopyPlace, options: ExportOptions, monitor: Monitor
) -> list[Exported]:
    """Return when *place* has a copy of each file, and its SHA-256 beside it.

    Raises ``ExportRefused`` for a name under which something else is, and what the place and the store raise. Copies
    that were finished by then stay.
    """
    return [_export(repository, entry, place, options, monitor) for entry in files]


def _export(
    repository: Repository, entry: Entry, place: CopyPlace, options: ExportOptions, monitor: Monitor
) -> Exported:
    # Read once before anything is written: so that what is there can be compared, and damage leaves nothing behind.
    digest = sha256_of(repository, entry, monitor, options.stop)
    there = place.sha256(entry.path, entry.size_bytes, digest)
    if there is not None and there != digest and not options.force:
        raise _refused(place, entry.path)
    is_new = there != digest
    if is_new:
        with repository.reader() as reader, monitor.task(f"{display(entry.path)}: copying", entry.size_bytes) as task:
            place.write(
                entry.path,
                _stoppable(RestoredFile(reader, entry, task.advance).stream(), options.stop),
                entry.size_bytes,
                force=options.force,
            )
    _write_sum(place, entry.path, digest, force=options.force)
    return Exported(entry.path, entry.size_bytes, digest, place.where(entry.path), is_new)


def _stoppable(pieces: Iterator[memoryview], stop: Callable[[], None]) -> Iterator[memoryview]:
    for piece in pieces:
        stop()
        yield piece


def _write_sum(place: CopyPlace, path: bytes, digest: str, *, force: bool) -> None:
    line = sum_line(path.rpartition(b"/")[2], digest)
    expected = hashlib.sha256(line).hexdigest()
    there = place.sha256(path + SUFFIX, len(line), expected)
    if there == expected:
        return
    if there is not None and not force:
        raise _refused(place, path + SUFFIX)
    place.write(path + SUFFIX, iter([memoryview(line)]), len(line), force=force)


def sum_line(name: bytes, digest: str) -> bytes:
    """Return the line that ``sha256sum`` writes for a file of that name."""
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != name else b""
    return mark + digest.encode() + b"  " + escaped + b"\n"


def _refused(place: CopyPlace, path: bytes) -> ExportRefused:
    return ExportRefused("there is something else under that name; it was left as it is", where=place.where(path))
