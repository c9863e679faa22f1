"""One pass over a file's bytes in order, cut where records and storages begin and end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isal.isal_zlib import crc32

from mlsync.formats.layout import Extent, Storage
from mlsync.proof.verdict import LEVEL_CONTAINER, Finding

_FAULTS_MAX = 100


class SpanCursor:
    """Cuts consecutive blocks of a file along spans that are disjoint and in file order."""

    def __init__(self, spans: Sequence[Extent | Storage]) -> None:
        self._spans = spans
        self._next = 0

    def pieces(self, offset: int, block: memoryview) -> Iterator[tuple[int, memoryview, bool]]:
        """What *block*, which lies at *offset*, holds of each span, and whether the span ends with it."""
        end = offset + len(block)
        while self._next < len(self._spans):
            span = self._spans[self._next]
            span_end = span.offset + span.length
            if span.offset >= end and span_end > end:
                return
            piece = block[max(span.offset - offset, 0) : max(min(span_end, end) - offset, 0)]
            ends = span_end <= end
            yield self._next, piece, ends
            if not ends:
                return
            self._next += 1


class ExtentChecksums:
    """Answers which records of a container have other bytes than its checksums were made of."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self.faults: list[Finding] = []
        self._extents = [extent for extent in extents if extent.crc32 is not None and extent.length]
        self._cursor = SpanCursor(self._extents)
        self._crc = 0

    def feed(self, offset: int, block: memoryview) -> None:
        """Take in the file's bytes at *offset*."""
        for index, piece, ends in self._cursor.pieces(offset, block):
            self._crc = crc32(piece, self._crc)
            if ends:
                self._close(self._extents[index])

    def _close(self, extent: Extent) -> None:
        if self._crc != extent.crc32 and len(self.faults) < _FAULTS_MAX:
            self.faults.append(Finding(LEVEL_CONTAINER, "refuse", "CRC-32 differs", extent.name, extent.offset))
        self._crc = 0
