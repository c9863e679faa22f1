"""Check the CRC-32 of a container's records while the file is read, to detect torn writes."""

from __future__ import annotations

from collections.abc import Iterable

from isal import isal_zlib

from mlsync.errors import ChangedWhileReading
from mlsync.formats.layout import Extent


class RecordChecks:
    """Checks the CRCs of records; it is fed the file's bytes in file order, without the holes, which count as zeros.

    A record is checked as soon as its last byte was fed; a wrong CRC raises ``ChangedWhileReading``.
    """

    def __init__(self, extents: Iterable[Extent], where: str) -> None:
        self._extents = (extent for extent in extents if extent.crc32 is not None)
        self._where = where
        self._current: Extent | None = None
        self._crc = 0
        self._reached = 0
        self._next()

    def update(self, offset: int, view: memoryview) -> None:
        """Feed the bytes at *offset*, which is behind all bytes fed before."""
        end = offset + len(view)
        while self._current is not None and self._current.offset < end:
            stop = min(end, self._current.offset + self._current.length)
            self._add_zeros(min(offset, stop))
            self._crc = isal_zlib.crc32(view[self._reached - offset : stop - offset], self._crc)
            self._reached = stop
            if stop < self._current.offset + self._current.length:
                return
            self._judge(self._current)

    def finish(self) -> None:
        """Check the records that end in holes, after everything else was fed."""
        while self._current is not None:
            self._add_zeros(self._current.offset + self._current.length)
            self._judge(self._current)

    def _add_zeros(self, up_to: int) -> None:
        count = up_to - self._reached
        if count > 0:
            self._crc = isal_zlib.crc32_combine(self._crc, _crc_of_zeros(count), count)
            self._reached = up_to

    def _judge(self, extent: Extent) -> None:
        if self._crc != extent.crc32:
            what = f"record {extent.name!r} does not match its CRC: it is being written, or is damaged"
            raise ChangedWhileReading(what, where=self._where)
        self._next()

    def _next(self) -> None:
        self._current = next(self._extents, None)
        self._crc = 0
        if self._current is not None:
            self._reached = self._current.offset


def _crc_of_zeros(count: int) -> int:
    """Return the CRC of *count* zero bytes, in as many steps as *count* has bits: a hole may have any size."""
    result, power, length = 0, isal_zlib.crc32(b"\0"), 1
    while count:
        if count & 1:
            result = isal_zlib.crc32_combine(result, power, length)
        power, length, count = isal_zlib.crc32_combine(power, power, length), length * 2, count >> 1
    return result
