"""A long file on its way to the disk: gathered in one buffer, so that it can be written past the page cache."""

from __future__ import annotations

import os
from typing import Final

from mlsync.buffers import aligned_memory
from mlsync.codec.digest import Buffer
from mlsync.direct_io import OpenAgain, bytes_before_aligned, slack_bytes, write_direct

STAGING_BYTES: Final = 8 << 20


class Staging:
    """Writes what it is given, in pieces as long as its buffer; the buffer is used for one file after another."""

    def __init__(self) -> None:
        self._memory: memoryview | None = None
        self._descriptor = -1
        self._open_again: OpenAgain = _cannot
        self._offset = 0
        self._filled_bytes = 0

    def begin(self, descriptor: int, open_again: OpenAgain) -> None:
        """Go on with another file; *open_again* opens it once more with other flags."""
        self._descriptor, self._open_again = descriptor, open_again
        self._filled_bytes = 0

    def put(self, offset: int, content: Buffer) -> None:
        """Take bytes that belong at *offset*; they are in the file after ``flush`` at the latest."""
        rest = memoryview(content)
        if offset != self._offset + self._filled_bytes:
            self.flush()
        while rest:
            if not self._filled_bytes:
                self._offset = offset
            room = self._room()[self._filled_bytes :][: len(rest)]
            room[:] = rest[: len(room)]
            self._filled_bytes += len(room)
            offset += len(room)
            rest = rest[len(room) :]
            if self._filled_bytes == len(self._room()):
                self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        rest, offset = self._room()[: self._filled_bytes], self._offset
        self._filled_bytes = 0
        written = 0
        if before_bytes := min(bytes_before_aligned(offset), len(rest)):
            written = os.pwrite(self._descriptor, rest[:before_bytes], offset)
        if written == before_bytes:
            written += write_direct(self._open_again, offset + written, rest[written:])
        write_at(self._descriptor, offset + written, rest[written:])

    def _room(self) -> memoryview:
        """Return the buffer from where the first byte belongs, so that aligned offsets lie at aligned addresses."""
        if self._memory is None:
            self._memory = memoryview(aligned_memory(STAGING_BYTES))
        return self._memory[slack_bytes(self._offset) :]


def write_at(descriptor: int, offset: int, content: Buffer) -> None:
    """Write all of *content* at *offset*."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _cannot(flags: int) -> int:
    raise AssertionError(f"no file was begun: {flags}")
