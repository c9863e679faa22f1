"""Directories of a version that level 5 loads as one: checkpoints of several files, and directories that users name.

A file belongs to the innermost of them that it is in. Logs may be there too: a changed log does not make mlsync load
the directory again, and no log is held back with it. Only checkpoints count, and the small files that describe them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mlsync.formats.groups.names import enclosing, is_named_for_all
from mlsync.proof.framework import DESCRIBED, Framework
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.values import storable
from mlsync.versions.units import Entries, units_around

_CONFIG: Final = b"config.json"
_WEIGHTS: Final = re.compile(rb"model.*\.safetensors|pytorch_model.*\.bin", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LoadedDirectory:
    """A directory that is loaded as one; *inner* are the directories in it that are loaded by themselves.

    *lacking* says what a checkpoint of several files in it lacks, ``None`` if all are complete.
    """

    path: bytes
    inner: tuple[bytes, ...] = ()
    lacking: str | None = None

    def holds(self, path: bytes) -> bool:
        """Return whether a file is loaded with this directory."""
        if not is_below(path, self.path) or any(is_below(path, inner) for inner in self.inner):
            return False
        # A directory with the name of a checkpoint is loaded by itself, unless it is within another one.
        outermost = enclosing(path.rpartition(b"/")[0])
        return not (is_named_for_all(outermost) and is_below(outermost, self.path))

    def entries(self, entries: Entries) -> list[Entry]:
        """Return the entries to restore, by paths in the directory; a hard link becomes the file that it links to."""
        found = [entry for path, entry in sorted(entries.items()) if self.holds(path)]
        return [self._within(entry, entries) for entry in found]

    def _within(self, entry: Entry, entries: Entries) -> Entry:
        path = entry.path[len(self.path) + 1 if self.path else 0 :]
        if entry.kind is not EntryKind.HARD_LINK:
            return msgspec.structs.replace(entry, path=path)
        return msgspec.structs.replace(entries[entry.target], path=path)


@dataclass(frozen=True, slots=True)
class LoadedDirectories:
    """The loaded directories that certain files are in."""

    found: tuple[LoadedDirectory, ...] = ()
    _directories: dict[bytes, bool] = field(default_factory=dict)

    def hold(self, path: bytes) -> bool:
        """Return whether a file is loaded with one of them, and not by itself."""
        directory = path.rpartition(b"/")[0]
        if directory not in self._directories:
            self._directories[directory] = any(whole.holds(path) for whole in self.found)
        return self._directories[directory]


def name_of(directory: bytes) -> str:
    """Return a directory's path as a proof records it, "." for the run's own."""
    return storable(os.fsdecode(directory)) or "."


def directory_above(path: bytes, name: object) -> bytes | None:
    """Return the directory above a file to which ``name_of`` gives that name, if there is one."""
    while path:
        path = path.rpartition(b"/")[0]
        if name_of(path) == name:
            return path
    return None


def is_described_by(path: bytes) -> bool:
    """Return whether a file is a small one that describes the checkpoint beside it."""
    return path.endswith((b".json", b".metadata"))


def is_below(path: bytes, directory: bytes) -> bool:
    """Return whether a path is below a directory; every path is below the run's own, whose path is empty."""
    return not directory or path.startswith(directory + b"/")


def loaded_directories(
    framework: Framework, paths: Iterable[bytes], entries: Entries, reader: ChunkReader
) -> LoadedDirectories:
    """Return the directories among *entries* that *framework* loads as one and that any of *paths* is in."""
    paths = list(paths)
    if not framework.takes_directories or not paths:
        return LoadedDirectories()
    units = units_around(paths, entries, reader)
    kinds: dict[bytes, set[str]] = {path: set() for path in sorted(_directories(entries))}
    for unit in units:
        kinds.setdefault(unit.directory, set()).add(unit.kind)
    for directory in _described(entries):
        kinds.setdefault(directory, set()).add(DESCRIBED)
    given = [directory for directory, found in kinds.items() if framework.is_meant_for_directory(directory, found)]
    lacking = {unit.directory: unit.lacking for unit in units if unit.lacking is not None}
    wholes = [LoadedDirectory(path, _inside(path, given), _lack(path, lacking)) for path in given]
    return LoadedDirectories(tuple(whole for whole in wholes if any(whole.holds(path) for path in paths)))


def _directories(entries: Entries) -> set[bytes]:
    return {b""} | {path for path, entry in entries.items() if entry.kind is EntryKind.DIRECTORY}


def _described(entries: Entries) -> Iterator[bytes]:
    """Yield the directories that have a model's weights beside its configuration."""
    for path in entries:
        directory, _, name = path.rpartition(b"/")
        if _WEIGHTS.fullmatch(name) and (directory + b"/" + _CONFIG if directory else _CONFIG) in entries:
            yield directory


def _inside(path: bytes, given: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(other for other in given if other != path and is_below(other, path))


def _lack(path: bytes, lacking: dict[bytes, str]) -> str | None:
    """Return what an incomplete checkpoint lacks that is the directory, is in it, or contains it."""
    places = (place for place in lacking if place == path or is_below(place, path) or is_below(path, place))
    return next((lacking[place] for place in places), None)
