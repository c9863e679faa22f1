"""Deflated records: their bytes one piece at a time, in memory that does not grow with them.

A record tells how long it is when unpacked. Nothing is unpacked past that length, so that a bomb costs no more than it
admits to, and what it admits to is looked at before.
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
    """Unpacks the record that it is shown piece by piece; any damage is ``RecordDamaged``.

    With zlib's own head before it, the sum behind it is checked too.
    """

    def __init__(self, extent: Extent, plain_bytes: int, *, has_head: bool = False) -> None:
        self._extent = extent
        self._left_bytes = plain_bytes
        self._engine = zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)

    def feed(self, piece: bytes | memoryview) -> Iterator[bytes]:
        """What *piece* unpacks to, in pieces of at most a MiB."""
        while piece:
            yield from self._step(piece)
            piece = self._engine.unconsumed_tail
            if self._engine.unused_data:
                self._refuse("compressed data end before their record does")

    def finish(self) -> Iterator[bytes]:
        """What was still held back, when all of the record was shown."""
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
    """All of a record, which the caller found small enough."""
    inflater = Inflater(extent, plain_bytes)
    return b"".join([*inflater.feed(stored), *inflater.finish()])


def inflate_head(source: ByteSource, extent: Extent, wanted_bytes: int) -> bytes:
    """The first *wanted_bytes* of an unpacked record, or all there are, from as few of its bytes as it takes."""
    for step_bytes in _HEAD_STEPS_BYTES:
        stored = source.read_at(extent.offset, min(step_bytes, extent.length))
        try:
            unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, wanted_bytes)
        except zlib.error:
            raise RecordDamaged(_DAMAGED, record=extent.name, offset=extent.offset) from None
        if len(unpacked) == wanted_bytes or len(stored) == extent.length:
            break
    return unpacked
