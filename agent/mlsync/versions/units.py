"""Find checkpoints of several files ("units") in a version.

A shard is no checkpoint without its siblings. While a unit is being written, a version takes none of its files. A unit
that stays incomplete for long was left so by a crash, and is backed up as it is: losing the weights because a list
beside them is missing would be worse.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from mlsync.formats.dcp.metadata import check_against_files, rank_metadata_of, rank_of_metadata, read_dcp_metadata
from mlsync.formats.groups.find import find_units, marked_around
from mlsync.formats.groups.names import enclosing, is_named_for_all, is_tracker
from mlsync.formats.groups.tree import Unit
from mlsync.formats.groups.zarr_arrays import array_around
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.libraries.tensorflow_bundle import check_against_shards, index_of, parse_index
from mlsync.formats.pickles.machine import PICKLE_BYTES_MAX
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.versions.stored_file import RestoredFile

Entries = Mapping[bytes, Entry]


def units_around(paths: Iterable[bytes], entries: Entries, reader: ChunkReader) -> list[Unit]:
    """Return the units among *entries* that any of *paths* is or was a part of.

    This reads the small files that describe a unit from the store; raise ``Damage`` if one is damaged.
    """
    paths = set(paths)
    places = _places_of(paths, entries)
    if not places:
        return []

    def read_small(path: bytes, limit_bytes: int) -> bytes | None:
        entry = entries[path]
        if entry.size_bytes > limit_bytes:
            return None
        return RestoredFile(reader, entry, lambda _: None).read_at(0, entry.size_bytes)

    units = find_units(dict(_listing(places, entries)), read_small)
    return [unit for unit in units if _is_asked(unit, paths, places, entries)]


def _is_asked(unit: Unit, paths: set[bytes], places: set[bytes], entries: Entries) -> bool:
    """Return whether the caller asked for a unit; of other directories, the listing had no files."""
    if unit.kind == "pointer":
        return unit.directory in places or not paths.isdisjoint(unit.members)
    return _is_within_any(unit.directory, places, entries)


def metadata_beside(entry: Entry, entries: Entries) -> Entry | None:
    """Return the entry of the metadata that describe a shard of a distributed checkpoint, if it is there."""
    directory, _, name = entry.path.rpartition(b"/")
    index = index_of(entry.path)
    if index is not None:
        beside = entries.get(index)
        return beside if beside is not None and beside.kind is EntryKind.FILE else None
    if not name.endswith(b".distcp"):
        return None
    # The metadata of all ranks, or those of its own rank.
    for about in (b".metadata", rank_metadata_of(name)):
        beside = None if about is None else entries.get(directory + b"/" + about if directory else about)
        if beside is not None and beside.kind is EntryKind.FILE:
            return beside
    return None


def fitting_metadata(entry: Entry, entries: Entries, reader: ChunkReader) -> bytes | None:
    """Return the bytes of a distributed checkpoint's metadata; ``None`` if they do not fit the files beside them.

    In an incomplete checkpoint nobody can say which file is of another save, so no file is held against another.
    """
    if entry.size_bytes > PICKLE_BYTES_MAX:
        return None
    data = RestoredFile(reader, entry, lambda _: None).read_at(0, entry.size_bytes)
    directory, _, name = entry.path.rpartition(b"/")
    sizes = {
        os.fsdecode(path.rpartition(b"/")[2]): other.size_bytes
        for path, other in entries.items()
        if path.rpartition(b"/")[0] == directory
    }
    try:
        if name.endswith(b".index"):
            check_against_shards(parse_index(data), os.fsdecode(name).removesuffix(".index"), sizes)
            return data
        check_against_files(read_dcp_metadata(data, is_part=rank_of_metadata(name) is not None), sizes)
    except ContainerBroken:
        return None
    return data


def _places_of(paths: Iterable[bytes], entries: Entries) -> set[bytes]:
    """Return the directories whose units may be complete or incomplete because of these files."""
    places: set[bytes] = set()
    # By directory: a hundred thousand files may be in a few directories.
    for directory in {path.rpartition(b"/")[0] for path in paths}:
        marked = marked_around(directory, entries)
        places.add(enclosing(directory) if marked is None else marked)
        if (array := array_around(directory, entries)) is not None:
            places.add(array)
    for directory in {path.rpartition(b"/")[0] for path in paths if is_tracker(path)}:
        beside = {other for other, entry in entries.items() if entry.kind is EntryKind.DIRECTORY}
        places |= {other for other in beside if other.rpartition(b"/")[0] == directory and is_named_for_all(other)}
    return places


def _listing(places: set[bytes], entries: Entries) -> Iterator[tuple[bytes, int]]:
    """Yield the files in *places*, and the trackers beside them, with their sizes."""
    parents = {place.rpartition(b"/")[0] for place in places}
    # By directory, as above.
    is_needed: dict[bytes, bool] = {}
    for path, entry in entries.items():
        directory = path.rpartition(b"/")[0]
        if directory not in is_needed:
            is_needed[directory] = directory in parents or _is_within_any(directory, places, entries)
        if is_needed[directory] and entry.kind is EntryKind.FILE:
            yield path, entry.size_bytes


def _is_within_any(directory: bytes, places: set[bytes], entries: Entries) -> bool:
    outermost = enclosing(directory)
    if directory in places or (outermost in places and is_named_for_all(outermost)):
        return True
    return marked_around(directory, entries) in places or array_around(directory, entries) in places
