"""A fixed set of large, page-aligned buffers: bounded memory, no allocation per piece, back-pressure for readers."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, TypeAlias

# Bytes that a function takes without a copy.
Buffer: TypeAlias = bytes | bytearray | memoryview


def aligned_memory(size_bytes: int) -> mmap.mmap:
    """Return page-aligned memory, as direct I/O needs it: zeros, allocated by the kernel when first touched."""
    # Private, because the default, shared anonymous memory, is charged as tmpfs and never gets huge pages. Huge pages
    # need madvise, and save a tenth of a backup's time: page faults, and page lookups by processor and disk.
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class ThreadMemory(threading.local):
    """Memory that each thread has for itself and uses again and again; it grows to the longest that was asked for."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None

    def room(self, size_bytes: int) -> memoryview:
        """Return *size_bytes* of it, valid until this thread's next call."""
        if self._memory is None or len(self._memory) < size_bytes:
            self._memory = aligned_memory(size_bytes)
        return memoryview(self._memory)[:size_bytes]


@dataclass(slots=True, eq=False)
class _PoolBlock:
    """Memory of the pool; free while it has no holders."""

    memory: mmap.mmap
    view: memoryview
    holders: int = field(default=0)


class PooledBuffer:
    """A reference to one of the pool's buffers; the buffer is free when every reference is released."""

    __slots__ = ("_block", "_pool", "_released")

    def __init__(self, pool: BufferPool, block: _PoolBlock) -> None:
        self._pool = pool
        self._block = block
        self._released = False

    @property
    def view(self) -> memoryview:
        """The whole buffer, for use only until this reference is released."""
        if self._released:
            msg = "the buffer was released"
            raise ValueError(msg)
        return self._block.view

    def share(self) -> PooledBuffer:
        """Return a second reference, released on its own: several pieces may lie in one buffer."""
        return self._pool.hold_again(self, self._block)

    def release(self) -> None:
        """Release this reference; a second call does nothing."""
        self._pool.give_back(self, self._block)

    def mark_released(self) -> bool:
        """Note the release; return whether it is the first one. The pool calls it under its lock."""
        first = not self._released
        self._released = True
        return first

    @property
    def is_released(self) -> bool:
        """Whether this reference was released."""
        return self._released

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class BufferPool:
    """At most *count* buffers of *size_bytes* each, allocated when first needed and reused.

    A reader may wait for a second buffer while it holds one, so *count* must exceed the number of readers. Before
    ``acquire`` waits, it calls *before_waiting*: code that collects pieces into batches must pass its batch on then, or
    its buffers would never become free.
    """

    def __init__(self, count: int, size_bytes: int, before_waiting: Callable[[], None] | None = None) -> None:
        if count < 1 or size_bytes < 1:
            msg = f"a pool of {count} buffers of {size_bytes} bytes"
            raise ValueError(msg)
        self.count = count
        self.size_bytes = size_bytes
        self._before_waiting = before_waiting
        self._changed = threading.Condition()
        self._free: list[_PoolBlock] = []
        self._made_count = 0
        self._closed = False

    def acquire(self) -> PooledBuffer:
        """Return a buffer as soon as one is free; its content is undefined."""
        if self._before_waiting is not None and not self._is_ready():
            self._before_waiting()
        with self._changed:
            self._changed.wait_for(self._is_ready)
            if self._closed:
                msg = "the buffer pool is closed"
                raise ValueError(msg)
            # The last used buffer first: its pages are mapped and may still be in the processor's cache.
            block = self._free.pop() if self._free else self._make()
            block.holders = 1
            return PooledBuffer(self, block)

    def close(self) -> None:
        """Free the memory: free buffers now, held ones on their release; waiting readers fail."""
        with self._changed:
            self._closed = True
            while self._free:
                _unmap(self._free.pop())
            self._changed.notify_all()

    def hold_again(self, buffer: PooledBuffer, block: _PoolBlock) -> PooledBuffer:
        """Count one more holder of *block*, which *buffer* still holds."""
        with self._changed:
            if buffer.is_released:
                msg = "the buffer was released"
                raise ValueError(msg)
            block.holders += 1
            return PooledBuffer(self, block)

    def give_back(self, buffer: PooledBuffer, block: _PoolBlock) -> None:
        """Count one holder less; without holders the block is free."""
        with self._changed:
            if not buffer.mark_released():
                return
            block.holders -= 1
            if block.holders > 0:
                return
            if self._closed:
                _unmap(block)
                return
            self._free.append(block)
            self._changed.notify()

    def _is_ready(self) -> bool:
        return self._closed or bool(self._free) or self._made_count < self.count

    def _make(self) -> _PoolBlock:
        memory = aligned_memory(self.size_bytes)
        self._made_count += 1
        return _PoolBlock(memory, memoryview(memory))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _unmap(block: _PoolBlock) -> None:
    # While a slice still exists, the memory cannot be unmapped; it is freed with the slice.
    with contextlib.suppress(BufferError):
        block.view.release()
        block.memory.close()
