"""Write long files past the page cache: one buffer fills while threads write the others."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from mlsync.buffers import Buffer, aligned_memory
from mlsync.direct_io import OpenAgain, bytes_before_aligned, slack_bytes, write_direct

STAGING_BYTES: Final = 8 << 20
# One fills and two are written, so that the disk always has the next.
BUFFER_COUNT: Final = 3


class Staging:
    """Writes one file after another through the same buffers, a whole buffer at a time.

    ``flush`` writes a short file. Of a longer one, threads write each full buffer while the next one fills, so that the
    caller does not wait for the disk.
    """

    def __init__(self) -> None:
        self._buffers: deque[memoryview] = deque()
        self._descriptor = -1
        self._open_again: OpenAgain = _cannot
        self._offset = 0
        self._filled_bytes = 0
        self._executor: ThreadPoolExecutor | None = None
        self._writing: deque[Future[None]] = deque()

    def begin(self, descriptor: int, open_again: OpenAgain) -> None:
        """Begin a file; *open_again* opens it again with other flags."""
        self._descriptor, self._open_again = descriptor, open_again
        self._filled_bytes = 0

    def put(self, offset: int, content: Buffer) -> None:
        """Write bytes at *offset*; they are in the file after ``flush`` at the latest."""
        rest = memoryview(content)
        if offset != self._offset + self._filled_bytes:
            self._hand_on()
        while rest:
            if not self._filled_bytes:
                self._offset = offset
            room = self._buffer()[self._filled_bytes :][: len(rest)]
            room[:] = rest[: len(room)]
            self._filled_bytes += len(room)
            offset += len(room)
            rest = rest[len(room) :]
            if self._filled_bytes == len(self._buffer()):
                self._hand_on()

    def flush(self) -> None:
        """Return when all bytes are in the file; end the threads."""
        for writing in self.stop():
            writing.result()
        self._write(self._buffer()[: self._filled_bytes], self._offset)
        self._filled_bytes = 0

    def stop(self) -> Iterable[Future[None]]:
        """Wait for all writes, so that the file can be closed; return their futures, raise nothing."""
        executor, self._executor = self._executor, None
        writing, self._writing = self._writing, deque()
        if executor is not None:
            executor.shutdown(wait=True)
        return writing

    def _hand_on(self) -> None:
        """Write the buffer in a thread, and continue with the next one once it is free."""
        if not self._filled_bytes:
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(BUFFER_COUNT - 1, thread_name_prefix="mlsync-write")
        filled = self._buffer()[: self._filled_bytes]
        self._writing.append(self._executor.submit(self._write, filled, self._offset))
        self._filled_bytes = 0
        self._buffers.rotate()
        if len(self._writing) == BUFFER_COUNT:
            self._writing.popleft().result()

    def _write(self, rest: memoryview, offset: int) -> None:
        written = 0
        if before_bytes := min(bytes_before_aligned(offset), len(rest)):
            written = os.pwrite(self._descriptor, rest[:before_bytes], offset)
        if written == before_bytes:
            written += write_direct(self._open_again, offset + written, rest[written:])
        write_at(self._descriptor, offset + written, rest[written:])

    def _buffer(self) -> memoryview:
        """Return the buffer from the first byte on, so that aligned offsets lie at aligned addresses."""
        if not self._buffers:
            self._buffers.extend(memoryview(aligned_memory(STAGING_BYTES)) for _ in range(BUFFER_COUNT))
        return self._buffers[0][slack_bytes(self._offset) :]


def write_at(descriptor: int, offset: int, content: Buffer) -> None:
    """Write all of *content* at *offset*."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _cannot(flags: int) -> int:
    raise AssertionError(f"no file was begun: {flags}")
