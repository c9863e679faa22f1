"""Sources inside others: a section of a file, or bytes in memory, so that a parser of whole files can read them."""

from __future__ import annotations

from mlsync.formats.layout import ByteSource, is_far

# A zip of one tensor is parsed from its first half KiB (pickle and small records) and its last one (directory)
HEAD_BYTES = 2048
TAIL_BYTES = 1536


class Section:
    """The *size_bytes* bytes at *offset* of a source, which must have them.

    The two ends are each read once, as a whole: a parser reads a dozen small ranges there, and a checkpoint may have
    ten thousand sections. Of a far source only the requested bytes are read.
    """

    def __init__(self, source: ByteSource, offset: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._source = source
        self._offset = offset
        self._head: bytes | None = None
        self._tail: bytes | None = None

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the *length* bytes at *offset* of the section."""
        end = offset + length
        if is_far(self._source):
            return self._source.read_at(self._offset + offset, length)
        if end <= HEAD_BYTES:
            if self._head is None:
                self._head = self._source.read_at(self._offset, min(HEAD_BYTES, self.size_bytes))
            return self._head[offset:end]
        tail_at = max(self.size_bytes - TAIL_BYTES, 0)
        if offset >= tail_at:
            if self._tail is None:
                self._tail = self._source.read_at(self._offset + tail_at, self.size_bytes - tail_at)
            return self._tail[offset - tail_at : end - tail_at]
        return self._source.read_at(self._offset + offset, length)


class BytesSource:
    """Bytes in memory as a file."""

    def __init__(self, data: bytes) -> None:
        self.size_bytes = len(data)
        self._data = data

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the *length* bytes at *offset*."""
        return self._data[offset : offset + length]
