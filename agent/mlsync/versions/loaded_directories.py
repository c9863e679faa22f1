"""Directories of a version that level 5 loads as one: checkpoints of several files, and what the user names as such.

A file belongs to the innermost of them that it lies in. What a training logs may lie there too, and neither has a
directory loaded again nor is kept back with it: only checkpoints count, and the small files that describe them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mlsync.formats.groups.find import enclosing, is_named_for_all
from mlsync.proof.framework import DESCRIBED, Framework
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.repository.tokens import EntryKind
from mlsync.values import storable
from mlsync.versions.units import Entries, units_around

_CONFIG: Final = b"config.json"
_WEIGHTS: Final = re.compile(rb"model.*\.safetensors|pytorch_model.*\.bin", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LoadedDirectory:
    """A directory that is loaded as one; *inner* are those in it that are loaded for themselves.

    *lacking* says what a checkpoint of several files in it lacks, ``None`` if there is all that they tell of.
    """

    path: bytes
    inner: tuple[bytes, ...] = ()
    lacking: str | None = None

    def holds(self, path: bytes) -> bool:
        """Whether a file is one of those that are loaded with this directory."""
        if not is_below(path, self.path) or any(is_below(path, inner) for inner in self.inner):
            return False
        # A checkpoint by its name is one by itself, wherever it lies but in another such.
        outermost = enclosing(path.rpartition(b"/")[0])
        return not (is_named_for_all(outermost) and is_below(outermost, self.path))

    def entries(self, entries: Entries) -> list[Entry]:
        """Return all that is restored of it, by paths in it, in order; a link to a file elsewhere becomes that file."""
        found = [entry for path, entry in sorted(entries.items()) if self.holds(path)]
        return [self._within(entry, entries) for entry in found]

    def _within(self, entry: Entry, entries: Entries) -> Entry:
        path = entry.path[len(self.path) + 1 if self.path else 0 :]
        if entry.kind is not EntryKind.HARD_LINK:
            return msgspec.structs.replace(entry, path=path)
        return msgspec.structs.replace(entries[entry.target], path=path)


@dataclass(frozen=True, slots=True)
class LoadedDirectories:
    """Those that certain files are in."""

    found: tuple[LoadedDirectory, ...] = ()
    _directories: dict[bytes, bool] = field(default_factory=dict)

    def hold(self, path: bytes) -> bool:
        """Whether a file is loaded with one of them, and not for itself."""
        directory = path.rpartition(b"/")[0]
        if directory not in self._directories:
            self._directories[directory] = any(whole.holds(path) for whole in self.found)
        return self._directories[directory]


def name_of(directory: bytes) -> str:
    """Return a directory's path as a proof records it, "." for the run's own."""
    return storable(os.fsdecode(directory)) or "."


def directory_above(path: bytes, name: object) -> bytes | None:
    """Return the directory above a file that ``name_of`` gives that name, if one is."""
    while path:
        path = path.rpartition(b"/")[0]
        if name_of(path) == name:
            return path
    return None


def is_described_by(path: bytes) -> bool:
    """Whether a file is one of the small ones that say how a checkpoint beside them is put together."""
    return path.endswith((b".json", b".metadata"))


def is_below(path: bytes, directory: bytes) -> bool:
    """Whether a path leads into a directory; all do into the run's own, whose path is empty."""
    return not directory or path.startswith(directory + b"/")


def loaded_directories(
    framework: Framework, paths: Iterable[bytes], entries: Entries, reader: ChunkReader
) -> LoadedDirectories:
    """Return the directories that *framework* loads as one and that any of *paths* is in, of those in *entries*."""
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
    """Yield the directories that have a model's weights beside what says which model's."""
    for path in entries:
        directory, _, name = path.rpartition(b"/")
        if _WEIGHTS.fullmatch(name) and (directory + b"/" + _CONFIG if directory else _CONFIG) in entries:
            yield directory


def _inside(path: bytes, given: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(other for other in given if other != path and is_below(other, path))


def _lack(path: bytes, lacking: dict[bytes, str]) -> str | None:
    """Return what a checkpoint lacks that the directory is, has in it, or is a part of."""
    places = (place for place in lacking if place == path or is_below(place, path) or is_below(path, place))
    return next((lacking[place] for place in places), None)
