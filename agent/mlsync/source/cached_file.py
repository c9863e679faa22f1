"""An entry of the files cache: a file that was read, in memory and as the bytes in the local state."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from stat import S_ISDIR
from typing import Final, NamedTuple

from mlsync.source.racy import COARSE_NS, is_racy
from mlsync.source.scan import FileStat, Found

# Device and inode use all their 64 bits on some file systems, which SQLite's own integers do not have.
_STAT: Final = struct.Struct("<QQIIIQQqqq")
_PIECE: Final = struct.Struct("<QI16sQb")
#: The bounds of ``CachedPiece.rounds``.
ROUNDS_MIN: Final = -128
ROUNDS_MAX: Final = 127


class CachedPiece(NamedTuple):
    """Offset and length of a piece, and its seeded xxh3-128; for a part of a tensor what says which (see ``Piece``).

    *rounds* is how often the tensor was stored as a difference to one base by now; below 0 it is for how many more
    versions no difference is tried, because the last one did not pay.
    """

    offset: int
    length: int
    digest: bytes
    tensor: int = 0
    rounds: int = 0


def packed_piece(length: int, digest: bytes) -> bytes:
    """Return the pieces of a file that is one piece, as ``CachedFile`` packs them: a quarter of what objects take."""
    return _PIECE.pack(0, length, digest, 0, 0)


class CachedFile:
    """A file as it was read; *entry* is the caller's own.

    *stat* and *checked_ns* are ``stat`` and ``opened_ns`` of the ``SourceFile`` that it was read through. Both, and the
    pieces, stay packed until they are used: there is one entry per file, and most files did not change.
    """

    __slots__ = ("_packed_stat", "_pieces", "entry")

    def __init__(self, stat: FileStat, checked_ns: int, entry: bytes, pieces: Sequence[CachedPiece] | bytes) -> None:
        self._packed_stat = _STAT.pack(*stat, checked_ns)
        self._pieces = pieces if isinstance(pieces, bytes) else tuple(pieces)
        self.entry = entry

    @property
    def stat(self) -> FileStat:
        """The file's stat when it was read."""
        return FileStat._make(_STAT.unpack(self._packed_stat)[:-1])

    @property
    def checked_ns(self) -> int:
        """When it was read."""
        checked_ns: int = _STAT.unpack(self._packed_stat)[-1]
        return checked_ns

    @property
    def pieces(self) -> tuple[CachedPiece, ...]:
        """The file's pieces in order."""
        if isinstance(self._pieces, bytes):
            self._pieces = tuple(map(CachedPiece._make, _PIECE.iter_unpack(self._pieces)))
        return self._pieces

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CachedFile):
            return NotImplemented
        return self.packed() == other.packed()

    __hash__ = None  # type: ignore[assignment]

    def packed(self) -> tuple[bytes, bytes, bytes]:
        """Return stat and time of reading, entry, and pieces as bytes."""
        pieces = self._pieces
        if not isinstance(pieces, bytes):
            pieces = b"".join(_PIECE.pack(*piece) for piece in pieces)
        return self._packed_stat, self.entry, pieces

    @classmethod
    def unpacked(cls, stat: bytes, entry: bytes, pieces: bytes) -> CachedFile:
        """Return the entry that was packed; raise ``ValueError`` if the lengths are wrong."""
        if len(stat) != _STAT.size or len(pieces) % _PIECE.size:
            msg = "not what was packed"
            raise ValueError(msg)
        remembered = cls.__new__(cls)
        remembered._packed_stat, remembered._pieces, remembered.entry = stat, pieces, entry  # noqa: SLF001 - its own
        return remembered

    def is_same(self, found: Found) -> bool:
        """Return whether a scanned file is, by its stat alone, the one that was cached."""
        return is_same(self._packed_stat, found)


def is_same(packed_stat: bytes, found: Found) -> bool:
    """Return the same for a row of the local state, without building an object, which most rows never need.

    A stat does not prove that the content is unchanged if the file was read in the clock tick of its last write, or
    before that time (a clock set back): such a file is read again, and its digests mostly turn out equal.
    """
    if len(packed_stat) != _STAT.size:
        return False
    fields = _STAT.unpack(packed_stat)
    known, checked_ns, stat = fields[:-1], fields[-1], found.stat
    # The common case, quick for any kind: nothing differs, and the file was at rest long before it was read.
    if known == stat and stat.mtime_ns + COARSE_NS <= checked_ns and stat.ctime_ns + COARSE_NS <= checked_ns:
        return True
    if found.kind == "file" and found.link_to is None:
        return stat.same_content(FileStat._make(known)) and not is_racy(stat, checked_ns)
    # A directory or a link has no content besides its stat, so it cannot be racy.
    return _lasting(FileStat._make(known)) == _lasting(stat)


def _lasting(stat: FileStat) -> tuple[int, ...]:
    """Return the fields of a directory's or link's stat that matter: not size or link count.

    The ctime of a directory alone shows new extended attributes.
    """
    ctime_ns = stat.ctime_ns if S_ISDIR(stat.mode) else 0
    return stat.device, stat.inode, stat.mode, stat.uid, stat.gid, stat.mtime_ns, ctime_ns
