"""The files cache: what a backup keeps of each path in the local state, so that the next one need not read the file."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from mlsync.codec.compression import Coding
from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository.encoding.segments import decode_entries, encode_entries
from mlsync.repository.manifest import ChunkRef, Entry, Trouble
from mlsync.source.cached_file import CachedFile
from mlsync.source.state import State

_WHERE = "local state"


class CacheRow(msgspec.Struct, array_like=True, gc=False):
    """What the local state keeps of a path: the entry of the last version, and the trouble with the file, if any.

    A file that *is_held* is in no version yet: it belongs to a checkpoint of several files that was not complete. The
    next backup looks at it again at *again_ns* or, where that is 0, when nobody has written to it for long.
    *refused_by* is the policy that refused the file (see ``Policy``), and *refused_in* the directory that was refused
    as one; the trouble is the directory's then. The content of the entry *came_back* from the store, all of it, when
    this machine had stored it.
    """

    packed_entry: bytes | None
    trouble: Trouble | None = None
    is_held: bool = False
    is_checkpoint: bool = False
    refused_by: str = ""
    refused_in: bytes | None = None
    again_ns: int = 0
    came_back: bool = False


class CachedPath(msgspec.Struct, frozen=True, gc=False):
    """A path of the files cache: its row, the row's entry, and the file's stat and pieces when it was read last."""

    row: CacheRow
    entry: Entry | None
    file: CachedFile


class FilesCache(NamedTuple):
    """What the local state keeps of a run, by path; a row that is *unreadable* counts as none."""

    files: dict[bytes, CachedPath]
    unreadable: list[bytes]


_decoder = msgspec.msgpack.Decoder(CacheRow)
_location_decoder = msgspec.msgpack.Decoder(ChunkRef)


def load_files_cache(state: State, run: str) -> FilesCache:
    """Return what the local state keeps of a run."""
    cache = FilesCache({}, [])
    for path, file in state.cached_files(run).items():
        row = decode_row(file.entry)
        try:
            entry = None if row is None or row.packed_entry is None else decode_entries(row.packed_entry, _WHERE)[0]
        except (ValueError, ManifestDamaged, FormatUnsupported, IndexError):
            row = None
        if row is None:
            cache.unreadable.append(path)
            continue
        # Decoded by now: what stays in memory of so many files does not hold the entry twice.
        row.packed_entry = None
        cache.files[path] = CachedPath(row, entry, file)
    return cache


def decode_row(body: bytes) -> CacheRow | None:
    """Return a row, or ``None`` if it cannot be read: it is a hint, and the file is still there."""
    try:
        return _decoder.decode(body)
    except ValueError:
        return None


def encode_row(row: CacheRow) -> bytes:
    """Return the bytes that the local state keeps."""
    return msgspec.msgpack.encode(row)


def pack_entry(entry: Entry | None) -> bytes | None:
    """Return an entry as a row holds it."""
    return None if entry is None else encode_entries([entry])


def encode_location(ref: ChunkRef) -> bytes:
    """Return the bytes by which the local state finds a chunk."""
    return msgspec.msgpack.encode(ref)


def decode_location(body: bytes) -> ChunkRef | None:
    """Return where the local state says that a chunk lies, or ``None`` if it cannot be read."""
    try:
        ref = _location_decoder.decode(body)
    except ValueError:
        return None
    base = ref.base
    # A version with a difference of a difference, or without its base, would be refused by every reader.
    is_sound = base is None or (base.base is None and base.coding is not Coding.DIFFERENCE and base.is_placed)
    return ref if is_sound and (base is not None) == (ref.coding is Coding.DIFFERENCE) else None
