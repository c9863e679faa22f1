"""Write long files past the page cache: some memory fills while threads write the rest.

Chunks are opened right where they are written from: a reader asks for the *room* of each chunk some time before it is
put. Without that, copying every byte once more would cost as much processor time as decrypting it does.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from mlsync.beneath import reopen
from mlsync.buffers import Buffer, aligned_memory
from mlsync.direct_io import ALIGNMENT, OpenAgain, bytes_before_aligned, slack_bytes, write_direct

#: Of a file, whole pages: what one write takes.
SLAB_BYTES: Final = 4 << 20
#: What a reader opens ahead (40 MiB), what fills, and what is written.
SLABS_MAX: Final = 16
# One is written and the next waits, so that the disk always has one.
_WRITERS: Final = 2


@dataclass(slots=True, eq=False)
class _Slab:
    """Memory for a stretch of one file from *base* on, a multiple of ``ALIGNMENT``, taken up to *end*.

    While *rooms* that were given out (offsets in the file) are not put, somebody may still write to it.
    """

    memory: mmap.mmap
    view: memoryview
    file: object = None
    base: int = 0
    end: int = 0
    rooms: deque[int] = field(default_factory=deque)
    writing: list[Future[None]] = field(default_factory=list)

    def part(self, start: int, end: int) -> memoryview:
        """Return the memory for the file's bytes from *start* to *end*."""
        return self.view[start - self.base : end - self.base]

    def reaches(self, file: object, offset: int, length: int) -> bool:
        """Return whether it is for this part of the file too."""
        return self.file is file and self.base <= offset and offset + length <= self.base + len(self.view)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being written to it or from it."""
        return not self.rooms and all(one.done() for one in self.writing)


class Staging:
    """Writes one file after another, each from front to back, and reuses its memory.

    ``flush`` writes a short file. Of a longer one, threads write each full slab while the next ones fill, so that the
    caller does not wait for the disk.
    """

    def __init__(self) -> None:
        self._descriptor = -1
        self._open_again: OpenAgain = _cannot
        self._file: object = None
        # In the order in which rooms were given, and in which they were filled.
        self._ahead: deque[_Slab] = deque()
        self._used: deque[_Slab] = deque()
        self._slab_count = 0
        # What is filled and not handed on yet: a stretch of the file, in this slab.
        self._slab: _Slab | None = None
        self._start = 0
        self._end = 0
        self._executor: ThreadPoolExecutor | None = None
        self._writing: deque[Future[None]] = deque()

    # ------------------------------------------------------------ room ahead

    def room(self, file: object, offset: int, length: int) -> memoryview | None:
        """Return memory for bytes of *file* that will be put; ``None`` if there is no room for so many, or so early.

        Callers ask for it in the order in which they put.
        """
        if length > SLAB_BYTES:
            return None
        newest = self._ahead[-1] if self._ahead else self._slab
        if newest is None or not newest.reaches(file, offset, length) or newest.end > offset:
            newest = self._free_slab() or self._new_slab() or self._waited_for()
            if newest is None:
                return None
            _begin(newest, file, offset)
            self._ahead.append(newest)
        newest.end = offset + length
        newest.rooms.append(offset)
        return newest.part(offset, newest.end)

    def forget_rooms(self) -> None:
        """Give up all memory that was asked for and not put: whoever was to fill it may still do so."""
        self._leave_slab()
        kept = [slab for slab in self._used if not slab.rooms]
        self._slab_count -= len(self._ahead) + len(self._used) - len(kept)
        self._ahead.clear()
        self._used = deque(kept)

    # ------------------------------------------------------------ a file

    def begin(self, descriptor: int, open_again: OpenAgain, file: object = None) -> None:
        """Begin a file; *open_again* opens it again with other flags, and *file* is what its rooms were asked for."""
        self._leave_slab()
        self._descriptor, self._open_again, self._file = descriptor, open_again, file
        self._start = self._end = 0

    def put(self, offset: int, content: Buffer) -> None:
        """Write bytes at *offset*; they are in the file after ``flush`` at the latest."""
        view = memoryview(content)
        if not view:
            return
        filled = self._filled_slab(view, offset)
        if filled is not None:
            self._extend(filled, offset, len(view))
            return
        while view:
            slab = self._slab
            # Between two rooms of a slab is room for what lies there in the file.
            if slab is None or not slab.reaches(self._file, offset, 1):
                slab = self._free_slab() or self._new_slab() or self._waited_for() or self._made_slab()
                _begin(slab, self._file, offset)
            length = min(len(view), slab.base + len(slab.view) - offset)
            slab.part(offset, offset + length)[:] = view[:length]
            slab.end = max(slab.end, offset + length)
            self._extend(slab, offset, length)
            view, offset = view[length:], offset + length

    def flush(self) -> None:
        """Return when all bytes are in the file; end the threads."""
        if self._executor is not None:
            self._hand_on(self._end)
        for writing in self.stop():
            writing.result()
        if self._slab is not None:
            self._write(self._slab.part(self._start, self._end), self._start)
        self._leave_slab()

    def stop(self) -> Iterable[Future[None]]:
        """Wait for all writes, so that the file can be closed; return their futures, raise nothing."""
        executor, self._executor = self._executor, None
        writing, self._writing = self._writing, deque()
        if executor is not None:
            executor.shutdown(wait=True)
        return writing

    # ------------------------------------------------------------ inside

    def _filled_slab(self, view: memoryview, offset: int) -> _Slab | None:
        """Return the slab in which *view* has its room; the rooms of those before it are not needed any more."""
        if self._slab is None or view.obj is not self._slab.memory:
            if not any(view.obj is slab.memory for slab in self._ahead):
                return None
            while self._ahead[0].memory is not view.obj:
                self._used.append(self._ahead.popleft())
            for used in self._used:
                used.rooms.clear()
            slab = self._ahead.popleft()
        else:
            slab = self._slab
        # Bytes of another place would be written here, unnoticed.
        assert slab.rooms.popleft() == offset
        return slab

    def _extend(self, slab: _Slab, offset: int, length: int) -> None:
        """Note that *slab* holds these bytes of the file; hand on what cannot be written together with them."""
        if offset != self._end or self._slab is None:
            self._hand_on(self._end)
            self._start = offset
        elif slab is not self._slab:
            # Its last page is written with the next slab, as a whole.
            begun_bytes = min(slack_bytes(offset), offset - self._start)
            if begun_bytes == slack_bytes(offset):
                slab.part(offset - begun_bytes, offset)[:] = self._slab.part(offset - begun_bytes, offset)
            else:
                begun_bytes = 0
            self._hand_on(offset - begun_bytes)
            self._start = offset - begun_bytes
        if slab is not self._slab:
            self._leave_slab()
            self._slab = slab
        self._end = offset + length

    def _hand_on(self, end: int) -> None:
        """Write what is filled up to *end* in a thread; raise what went wrong with earlier writes."""
        while self._writing and self._writing[0].done():
            self._writing.popleft().result()
        if self._slab is None or end == self._start:
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_WRITERS, thread_name_prefix="mlsync-write")
        writing = self._executor.submit(self._write, self._slab.part(self._start, end), self._start)
        self._slab.writing.append(writing)
        self._writing.append(writing)
        self._start = end

    def _leave_slab(self) -> None:
        if self._slab is not None:
            self._used.append(self._slab)
            self._slab = None

    def _write(self, rest: memoryview, offset: int) -> None:
        written = 0
        if before_bytes := min(bytes_before_aligned(offset), len(rest)):
            written = os.pwrite(self._descriptor, rest[:before_bytes], offset)
        if written == before_bytes:
            written += write_direct(self._open_again, offset + written, rest[written:])
        write_at(self._descriptor, offset + written, rest[written:])

    # ------------------------------------------------------------ memory

    def _free_slab(self) -> _Slab | None:
        """Return memory from which all is written."""
        slab = next((slab for slab in self._used if slab.is_idle), None)
        if slab is not None:
            self._used.remove(slab)
        return slab

    def _new_slab(self) -> _Slab | None:
        return self._made_slab() if self._slab_count < SLABS_MAX else None

    def _waited_for(self) -> _Slab | None:
        """Return the memory that was used first, when all is written from it; ``None`` if all is asked for ahead."""
        slab = next((slab for slab in self._used if not slab.rooms), None)
        if slab is not None:
            self._used.remove(slab)
            wait(slab.writing)
        return slab

    def _made_slab(self) -> _Slab:
        self._slab_count += 1
        memory = aligned_memory(SLAB_BYTES + ALIGNMENT)
        return _Slab(memory, memoryview(memory))


def _begin(slab: _Slab, file: object, offset: int) -> None:
    """Use *slab* for a file from *offset* on, so that aligned offsets lie at aligned addresses."""
    slab.file, slab.base, slab.end = file, offset - slack_bytes(offset), offset
    slab.rooms.clear()
    slab.writing.clear()


def write_at(descriptor: int, offset: int, content: Buffer) -> None:
    """Write all of *content* at *offset*."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def open_again(descriptor: int, flags: int) -> int:
    """Open a file again, by its descriptor; without /proc, raise as if there were no direct I/O."""
    try:
        return reopen(descriptor, flags)
    except (FileNotFoundError, PermissionError) as error:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from error


def _cannot(flags: int) -> int:
    raise AssertionError(f"no file was begun: {flags}")
