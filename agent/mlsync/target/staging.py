"""A long file on its way to the disk: gathered in one buffer while others are written past the page cache."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from mlsync.buffers import Buffer, aligned_memory
from mlsync.direct_io import OpenAgain, bytes_before_aligned, slack_bytes, write_direct

STAGING_BYTES: Final = 8 << 20
# One that fills, and two that are written: the disk has the next as soon as it is done with one.
BUFFER_COUNT: Final = 3


class Staging:
    """Writes what it is given, in pieces as long as its buffers; these are used for one file after another.

    A short file is written by ``flush``; of a longer one threads write what has filled a buffer while the next one
    fills, so that whoever makes the bytes does not wait for the disk.
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
        """Go on with another file; *open_again* opens it once more with other flags."""
        self._descriptor, self._open_again = descriptor, open_again
        self._filled_bytes = 0

    def put(self, offset: int, content: Buffer) -> None:
        """Take bytes that belong at *offset*; they are in the file after ``flush`` at the latest."""
        rest = memoryview(content)
        if offset != self._offset + self._filled_bytes:
            self._hand_on()
        while rest:
            if not self._filled_bytes:
                self._offset = offset
            room = self._room()[self._filled_bytes :][: len(rest)]
            room[:] = rest[: len(room)]
            self._filled_bytes += len(room)
            offset += len(room)
            rest = rest[len(room) :]
            if self._filled_bytes == len(self._room()):
                self._hand_on()

    def flush(self) -> None:
        """Return when all that was put is in the file; the threads, if there was need of any, are gone."""
        for writing in self.stop():
            writing.result()
        self._write(self._room()[: self._filled_bytes], self._offset)
        self._filled_bytes = 0

    def stop(self) -> Iterable[Future[None]]:
        """Wait for what is being written, so that the file can be closed; return what became of it, raise nothing."""
        executor, self._executor = self._executor, None
        writing, self._writing = self._writing, deque()
        if executor is not None:
            executor.shutdown(wait=True)
        return writing

    def _hand_on(self) -> None:
        """Have what was gathered written, and go on with another buffer once one is free."""
        if not self._filled_bytes:
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(BUFFER_COUNT - 1, thread_name_prefix="mlsync-write")
        gathered = self._room()[: self._filled_bytes]
        self._writing.append(self._executor.submit(self._write, gathered, self._offset))
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

    def _room(self) -> memoryview:
        """Return the buffer from where the first byte belongs, so that aligned offsets lie at aligned addresses."""
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
