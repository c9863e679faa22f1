"""What a backup keeps of each path in the local state, so that the next one need not look at the file again."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository.manifest import ChunkRef, Entry, Trouble
from mlsync.repository.segments import decode_entries, encode_entries

_WHERE = "local state"


class _Row(msgspec.Struct, frozen=True, array_like=True):
    entry: bytes | None
    trouble: Trouble | None
    is_held: bool = False
    is_checkpoint: bool = False
    refused_by: str = ""
    refused_in: bytes | None = None
    again_ns: int = 0


@dataclass(frozen=True, slots=True)
class Recalled:
    """The entry that stands for a path in the last version, and what was wrong with the file, if anything was.

    One that *is_held* is in no version yet: it belongs to a checkpoint of several files that was not whole. It is
    looked at again at *again_ns*, or, where that is 0, when nobody has written to it for long.
    *refused_by* is the wish of the user that refused it (see ``Policy``), and *refused_in* the directory that was
    refused as one then; its trouble is that one's.
    """

    entry: Entry | None
    trouble: Trouble | None = None
    is_held: bool = False
    is_checkpoint: bool = False
    refused_by: str = ""
    refused_in: bytes | None = None
    again_ns: int = 0

    def encode(self) -> bytes:
        """Return the bytes that the local state keeps."""
        entry = None if self.entry is None else encode_entries([self.entry])
        row = _Row(
            entry,
            self.trouble,
            self.is_held,
            self.is_checkpoint,
            self.refused_by,
            self.refused_in,
            self.again_ns,
        )
        return msgspec.msgpack.encode(row)


def recall(body: bytes) -> Recalled | None:
    """Return what the local state kept, or ``None`` if it cannot be read: it is a hint, and the file is still there."""
    try:
        row = msgspec.msgpack.decode(body, type=_Row)
        entry = None if row.entry is None else decode_entries(row.entry, _WHERE)[0]
    except (ValueError, ManifestDamaged, FormatUnsupported, IndexError):
        return None
    return Recalled(entry, row.trouble, row.is_held, row.is_checkpoint, row.refused_by, row.refused_in, row.again_ns)


def recall_trouble(body: bytes) -> Recalled:
    """Return what the local state kept but for the entry; nothing if it cannot be read."""
    try:
        row = msgspec.msgpack.decode(body, type=_Row)
    except ValueError:
        return Recalled(None)
    return Recalled(None, row.trouble, row.is_held, row.is_checkpoint, row.refused_by, row.refused_in, row.again_ns)


def encode_location(ref: ChunkRef) -> bytes:
    """Return the bytes by which the local state finds a chunk."""
    return msgspec.msgpack.encode(ref)


def decode_location(body: bytes) -> ChunkRef | None:
    """Return where the local state says that a chunk lies, or ``None`` if it cannot be read."""
    try:
        return msgspec.msgpack.decode(body, type=ChunkRef)
    except ValueError:
        return None
