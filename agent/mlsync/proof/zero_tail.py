"""Tensors at a file's end that were perhaps never written: zeros from a page boundary up to the last byte.

A file system that lost power, or a network one that lost a client, leaves such files: their length is right, and bytes
that did not reach the disk are zeros. Checksums find that; without checksums only the offset of the zeros shows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mlsync.formats.layout import Storage
from mlsync.values import Finding, Level, Severity

_PAGE_BYTES: Final = 4096
# The last number that was written may itself end in zeros.
_NUMBER_BYTES_MAX: Final = 8


class ZeroTail:
    """Takes a file in order; *begins* is the offset of the zeros that it ends with so far."""

    def __init__(self) -> None:
        self.begins = 0
        self._size_bytes = 0

    def feed(self, block: memoryview) -> None:
        """Take the file's next bytes; of most blocks only the last page is read."""
        for part in (block[-_PAGE_BYTES:], block):
            kept_bytes = len(bytes(part).rstrip(b"\0"))
            if kept_bytes:
                self.begins = self._size_bytes + len(block) - len(part) + kept_bytes
                break
        self._size_bytes += len(block)

    def findings(self, storages: Iterable[Storage]) -> list[Finding]:
        """Return a warning if the zeros begin at a page boundary inside of a tensor and cover further ones."""
        edge = -(-self.begins // _PAGE_BYTES) * _PAGE_BYTES
        if edge - self.begins >= _NUMBER_BYTES_MAX or edge >= self._size_bytes:
            return []
        first = None
        count = 0
        for storage in storages:
            if storage.offset < edge < storage.offset + storage.length:
                first = storage
            elif storage.offset >= edge and storage.length:
                count += 1
        if first is None or not count:
            return []
        what = f"zeros from a page's edge on to the end, {self._size_bytes - edge} bytes: the rest of this tensor and "
        what += f"{count} more were perhaps never written"
        return [Finding(Level.MEANING, Severity.WARN, what, first.name, edge)]
