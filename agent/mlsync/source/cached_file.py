"""What is remembered of a file that was read, in memory and as the bytes that the local state keeps."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from mlsync.source.racy import COARSE_NS, is_racy
from mlsync.source.scan import FileStat, Found

# Device and inode use all their 64 bits on some file systems, which SQLite's own integers do not have.
_STAT: Final = struct.Struct("<QQIIIQQqqq")
_PIECE: Final = struct.Struct("<QI16s")


class CachedPiece(NamedTuple):
    """Where a piece lay, and its seeded xxh3-128."""

    offset: int
    length: int
    digest: bytes


class CachedFile:
    """A file as it was read; *entry* is the caller's own.

    *stat* and *checked_ns* are ``stat`` and ``opened_ns`` of the ``SourceFile`` that it was read through. Both, and the
    pieces, stay packed until somebody asks: there are as many of these as files, and most did not change.
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
        """Give stat and time of reading, entry, and pieces as bytes."""
        pieces = self._pieces
        if not isinstance(pieces, bytes):
            pieces = b"".join(_PIECE.pack(*piece) for piece in pieces)
        return self._packed_stat, self.entry, pieces

    @classmethod
    def unpacked(cls, stat: bytes, entry: bytes, pieces: bytes) -> CachedFile:
        """Give back what was packed; ``ValueError`` if those bytes cannot be it."""
        if len(stat) != _STAT.size or len(pieces) % _PIECE.size:
            msg = "not what was packed"
            raise ValueError(msg)
        remembered = cls.__new__(cls)
        remembered._packed_stat, remembered._pieces, remembered.entry = stat, pieces, entry  # noqa: SLF001 - its own
        return remembered

    def is_same(self, found: Found) -> bool:
        """Say whether what was found is, by its stat alone, what is remembered of its path."""
        return is_same(self._packed_stat, found)


def is_same(packed_stat: bytes, found: Found) -> bool:
    """Say so of a row of the local state, without making an object of it: of most nothing else is ever asked.

    The stats alone do not prove that a file still has the bytes that are remembered if it was read in the very clock
    tick of its last write, or at a time that lies before that write (a clock set back): such a file is read again, and
    then mostly found equal by its digests.
    """
    if len(packed_stat) != _STAT.size:
        return False
    fields = _STAT.unpack(packed_stat)
    known, checked_ns, stat = fields[:-1], fields[-1], found.stat
    # Mostly nothing at all differs, and what it is was at rest long before it was looked at: quickly said of any kind.
    if known == stat and stat.mtime_ns + COARSE_NS <= checked_ns and stat.ctime_ns + COARSE_NS <= checked_ns:
        return True
    if found.kind == "file" and found.link_to is None:
        return stat.same_content(FileStat._make(known)) and not is_racy(stat, checked_ns)
    # A directory or a link has no content apart from its stat: no moment of reading could be too early.
    return _lasting(FileStat._make(known)) == _lasting(stat)


def _lasting(stat: FileStat) -> tuple[int, ...]:
    """What of a directory's or link's stat counts: not its length, its links or when its stat last changed."""
    return stat.device, stat.inode, stat.mode, stat.uid, stat.gid, stat.mtime_ns
