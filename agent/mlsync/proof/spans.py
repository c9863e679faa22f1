"""One pass over a file's bytes in order, cut where records and storages begin and end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from isal.isal_zlib import crc32

from mlsync.formats.faults import RecordDamaged
from mlsync.formats.hdf5.fletcher32 import Fletcher32
from mlsync.formats.layout import Extent, Layout, Packed, Storage
from mlsync.formats.libraries.crc32c import crc32c
from mlsync.formats.zips.inflate import Inflater
from mlsync.values import Finding, Level, Severity

_FAULTS_MAX = 100
_SUM_BYTES = 4
_NOT_PACKED: Mapping[str, Packed] = {}


class SpanCursor:
    """Cuts consecutive blocks of a file along spans that are disjoint and in file order."""

    def __init__(self, spans: Sequence[Extent | Storage]) -> None:
        self._spans = spans
        self._next = 0

    def pieces(self, offset: int, block: memoryview) -> Iterator[tuple[int, memoryview, bool]]:
        """Yield the part of each span in *block*, which is at *offset*, and whether the span ends with it."""
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
    """Checks the records of a container against its checksums.

    Checksums of compressed records are of their plain bytes: the records are unpacked on the way, a MiB at a time.
    """

    def __init__(self, layout: Layout | None) -> None:
        self.faults: list[Finding] = []
        self._packed = layout.packed if layout is not None else _NOT_PACKED
        extents = layout.extents if layout is not None else ()
        self._extents = [extent for extent in extents if self._is_checked(extent)]
        self._cursor = SpanCursor(self._extents)
        self._current: _Plain | _Unpacked | _Summed | None = None

    def feed(self, offset: int, block: memoryview) -> None:
        """Check the file's bytes at *offset*, the next in order."""
        for index, piece, ends in self._cursor.pieces(offset, block):
            if self._current is None:
                self._current = self._begin(self._extents[index])
            self._current.feed(piece)
            if ends:
                self._close(self._current, self._extents[index])

    def _is_checked(self, extent: Extent) -> bool:
        return extent.length > 0 and (
            extent.crc32 is not None or extent.crc32c is not None or extent.name in self._packed
        )

    def _begin(self, extent: Extent) -> _Plain | _Unpacked | _Summed:
        packed = self._packed.get(extent.name)
        if packed is None:
            return _Plain(extent)
        return _Summed(extent, packed) if packed.is_summed else _Unpacked(extent, packed)

    def _close(self, record: _Plain | _Unpacked | _Summed, extent: Extent) -> None:
        fault = record.fault()
        if fault is not None and len(self.faults) < _FAULTS_MAX:
            self.faults.append(Finding(Level.CONTAINER, Severity.REFUSE, fault, extent.name, extent.offset))
        self._current = None


class _Plain:
    """A record that is not compressed."""

    def __init__(self, extent: Extent) -> None:
        self._is_castagnoli = extent.crc32 is None
        self._expected = extent.crc32c if self._is_castagnoli else extent.crc32
        self._crc = 0

    def feed(self, piece: memoryview) -> None:
        self._crc = crc32c(piece, self._crc) if self._is_castagnoli else crc32(piece, self._crc)

    def fault(self) -> str | None:
        if self._crc == self._expected:
            return None
        return "CRC-32C differs" if self._is_castagnoli else "CRC-32 differs"


class _Unpacked:
    """A compressed record; bytes after its first fault are not unpacked."""

    def __init__(self, extent: Extent, packed: Packed) -> None:
        self._expected = packed.crc32
        self._crc = 0
        self._inflater = Inflater(extent, packed.plain_bytes, has_head=packed.form == "zlib")
        self._fault: str | None = None

    def feed(self, piece: memoryview) -> None:
        if self._fault is None:
            self._add(self._inflater.feed(piece))

    def fault(self) -> str | None:
        if self._fault is None:
            self._add(self._inflater.finish())
        if self._fault is None and self._expected is not None and self._crc != self._expected:
            return "CRC-32 differs"
        return self._fault

    def _add(self, pieces: Iterator[bytes]) -> None:
        try:
            for piece in pieces:
                self._crc = crc32(piece, self._crc)
        except RecordDamaged as damage:
            self._fault = damage.reason


class _Summed:
    """A record followed by a Fletcher checksum of its stored bytes."""

    def __init__(self, extent: Extent, packed: Packed) -> None:
        self._record = _Unpacked(extent, packed) if packed.form != "plain" else None
        self._sum = Fletcher32()
        self._held = b""  # what may be the sum

    def feed(self, piece: memoryview) -> None:
        whole = memoryview(self._held + bytes(piece)) if self._held else piece
        self._held = bytes(whole[-_SUM_BYTES:])
        before = whole[:-_SUM_BYTES]
        self._sum.feed(before)
        if before and self._record is not None:
            self._record.feed(before)

    def fault(self) -> str | None:
        if not self._sum.is_that(self._held):
            return "Fletcher's sum differs"
        return self._record.fault() if self._record is not None else None
