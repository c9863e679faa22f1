"""Inflate records a piece at a time, in constant memory.

A record states its inflated length, which the caller checks first. Nothing is inflated past it, so that a bomb costs no
more than it states.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NoReturn

from mlsync.formats.faults import RecordDamaged
from mlsync.formats.layout import ByteSource, Extent

PIECE_BYTES = 1 << 20
_HEAD_STEPS_BYTES = (1 << 10, 8 << 10, 64 << 10, 128 << 10)
_DAMAGED = "compressed data are damaged"


class Inflater:
    """Inflates the record that it is fed piece by piece; any damage raises ``RecordDamaged``.

    With *has_head* it is a zlib stream, whose checksum is verified too.
    """

    def __init__(self, extent: Extent, plain_bytes: int, *, has_head: bool = False) -> None:
        self._extent = extent
        self._left_bytes = plain_bytes
        self._engine = zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)

    def feed(self, piece: bytes | memoryview) -> Iterator[bytes]:
        """Yield the inflated bytes of *piece*, at most a MiB at a time."""
        while piece:
            yield from self._step(piece)
            piece = self._engine.unconsumed_tail
            if self._engine.unused_data:
                self._refuse("compressed data end before their record does")

    def finish(self) -> Iterator[bytes]:
        """Yield the rest, after the whole record was fed."""
        while not self._engine.eof:
            held = list(self._step(b""))
            if not held and not self._engine.eof:
                self._refuse("compressed data are cut short")
            yield from held
        if self._left_bytes:
            self._refuse("record unpacks to fewer bytes than it tells")

    def _step(self, piece: bytes | memoryview) -> Iterator[bytes]:
        try:
            unpacked = self._engine.decompress(piece, PIECE_BYTES)
        except zlib.error:
            self._refuse(_DAMAGED)
        self._left_bytes -= len(unpacked)
        if self._left_bytes < 0:
            self._refuse("record unpacks to more bytes than it tells")
        if unpacked:
            yield unpacked

    def _refuse(self, reason: str) -> NoReturn:
        raise RecordDamaged(reason, record=self._extent.name, offset=self._extent.offset)


def inflate(extent: Extent, stored: bytes, plain_bytes: int) -> bytes:
    """Return the whole record; the caller has checked that it is small enough."""
    inflater = Inflater(extent, plain_bytes)
    return b"".join([*inflater.feed(stored), *inflater.finish()])


def inflate_head(source: ByteSource, extent: Extent, wanted_bytes: int) -> bytes:
    """Return the first *wanted_bytes* of an inflated record, or all there are, from as few stored bytes as possible."""
    for step_bytes in _HEAD_STEPS_BYTES:
        stored = source.read_at(extent.offset, min(step_bytes, extent.length))
        try:
            unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, wanted_bytes)
        except zlib.error:
            raise RecordDamaged(_DAMAGED, record=extent.name, offset=extent.offset) from None
        if len(unpacked) == wanted_bytes or len(stored) == extent.length:
            break
    return unpacked
