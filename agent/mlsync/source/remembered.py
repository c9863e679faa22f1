"""What is remembered of a file that was read, in memory and as the bytes that the local state keeps."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from mlsync.source.racy import is_racy
from mlsync.source.scan import FileStat

# Device and inode use all their 64 bits on some file systems, which SQLite's own integers do not have.
_STAT: Final = struct.Struct("<QQIIIQQqqq")
_PIECE: Final = struct.Struct("<QI16s")


class RememberedPiece(NamedTuple):
    """Where a piece lay, and its seeded xxh3-128."""

    offset: int
    length: int
    digest: bytes


class Remembered:
    """A file as it was read; *entry* is the caller's own.

    *stat* and *checked_ns* are ``stat`` and ``opened_ns`` of the ``SourceFile`` that it was read through.
    """

    __slots__ = ("_pieces", "checked_ns", "entry", "stat")

    def __init__(
        self, stat: FileStat, checked_ns: int, entry: bytes, pieces: Sequence[RememberedPiece] | bytes
    ) -> None:
        self.stat = stat
        self.checked_ns = checked_ns
        self.entry = entry
        self._pieces = pieces if isinstance(pieces, bytes) else tuple(pieces)

    @property
    def pieces(self) -> tuple[RememberedPiece, ...]:
        """The file's pieces in order; taken apart only when asked for, since most files did not change."""
        if isinstance(self._pieces, bytes):
            self._pieces = tuple(map(RememberedPiece._make, _PIECE.iter_unpack(self._pieces)))
        return self._pieces

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Remembered):
            return NotImplemented
        return (self.stat, self.checked_ns, self.entry, self.pieces) == (
            other.stat,
            other.checked_ns,
            other.entry,
            other.pieces,
        )

    __hash__ = None  # type: ignore[assignment]

    def packed_stat(self) -> bytes:
        """Give stat and check time as bytes."""
        stat = self.stat
        return _STAT.pack(
            stat.device,
            stat.inode,
            stat.mode,
            stat.uid,
            stat.gid,
            stat.link_count,
            stat.size_bytes,
            stat.mtime_ns,
            stat.ctime_ns,
            self.checked_ns,
        )

    def packed_pieces(self) -> bytes:
        """Give the pieces as bytes."""
        if isinstance(self._pieces, bytes):
            return self._pieces
        return b"".join(_PIECE.pack(*piece) for piece in self._pieces)

    @classmethod
    def unpacked(cls, stat: bytes, entry: bytes, pieces: bytes) -> Remembered:
        """Give back what was packed; ``ValueError`` if those bytes cannot be it."""
        if len(stat) != _STAT.size or len(pieces) % _PIECE.size:
            msg = "not what was packed"
            raise ValueError(msg)
        *fields, checked_ns = _STAT.unpack(stat)
        return cls(FileStat(*fields), checked_ns, entry, pieces)


def is_unchanged(remembered: Remembered, stat: FileStat) -> bool:
    """Say whether the stats alone prove that the file still has the bytes that are remembered.

    They do not if the file was read in the very clock tick of its last write, or at a time that lies before that
    write (a clock set back): such a file is read again, and then mostly found equal by its digests.
    """
    return remembered.stat.same_content(stat) and not is_racy(stat, remembered.checked_ns)
