"""A fixed set of large, page-aligned buffers: bounded memory, no allocation per piece, back-pressure for readers."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, TypeAlias

# Bytes that a function takes without a copy, whoever owns them.
Buffer: TypeAlias = bytes | bytearray | memoryview


def aligned_memory(size_bytes: int) -> mmap.mmap:
    """Return memory that begins a page, as direct I/O wants it: zeros, and charged to nobody before it is touched."""
    # Private, not the default shared: shared anonymous memory is charged as tmpfs and never gets huge pages. Those have
    # to be asked for, and spare a tenth of a backup's time: faults, and lookups of pages by processor and disk alike.
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that was built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


@dataclass(slots=True, eq=False)
class _Block:
    """Memory of the pool, free while nobody holds it."""

    memory: mmap.mmap
    view: memoryview
    holders: int = field(default=0)


class PooledBuffer:
    """A hold on one of the pool's buffers; the buffer is free again when every hold on it is released."""

    __slots__ = ("_block", "_pool", "_released")

    def __init__(self, pool: BufferPool, block: _Block) -> None:
        self._pool = pool
        self._block = block
        self._released = False

    @property
    def view(self) -> memoryview:
        """The whole buffer; not to be looked at any more once this hold is released."""
        if self._released:
            msg = "the buffer was released"
            raise ValueError(msg)
        return self._block.view

    def share(self) -> PooledBuffer:
        """Give a second hold on the same memory, released on its own: several pieces may lie in one buffer."""
        return self._pool.hold_again(self, self._block)

    def release(self) -> None:
        """Give up this hold; a second call does nothing."""
        self._pool.give_back(self, self._block)

    def mark_released(self) -> bool:
        """Note the release and say whether it is the first one; called by the pool under its lock."""
        first = not self._released
        self._released = True
        return first

    @property
    def is_released(self) -> bool:
        """Whether this hold was given up."""
        return self._released

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class BufferPool:
    """At most *count* buffers of *size_bytes* each, made when first needed and handed out again and again.

    A reader may wait for a second buffer while it holds one, so *count* is to exceed the number of readers. Whoever is
    about to wait calls *before_waiting* first: what gathers pieces before it hands them on has to let them go then, or
    nobody ever would.
    """

    def __init__(self, count: int, size_bytes: int, before_waiting: Callable[[], None] | None = None) -> None:
        if count < 1 or size_bytes < 1:
            msg = f"a pool of {count} buffers of {size_bytes} bytes"
            raise ValueError(msg)
        self.count = count
        self.size_bytes = size_bytes
        self._before_waiting = before_waiting
        self._changed = threading.Condition()
        self._free: list[_Block] = []
        self._made_count = 0
        self._closed = False

    def acquire(self) -> PooledBuffer:
        """Give a buffer, as soon as there is one; its content is whatever was in it before."""
        if self._before_waiting is not None and not self._is_ready():
            self._before_waiting()
        with self._changed:
            self._changed.wait_for(self._is_ready)
            if self._closed:
                msg = "the buffer pool is closed"
                raise ValueError(msg)
            # The buffer used last comes first: its pages are mapped and may still be in the processor's cache.
            block = self._free.pop() if self._free else self._make()
            block.holders = 1
            return PooledBuffer(self, block)

    def close(self) -> None:
        """Give the memory back to the system: free buffers now, held ones on their release; waiting readers fail."""
        with self._changed:
            self._closed = True
            while self._free:
                _unmap(self._free.pop())
            self._changed.notify_all()

    def hold_again(self, buffer: PooledBuffer, block: _Block) -> PooledBuffer:
        """Count one more holder of *block*, which *buffer* still holds."""
        with self._changed:
            if buffer.is_released:
                msg = "the buffer was released"
                raise ValueError(msg)
            block.holders += 1
            return PooledBuffer(self, block)

    def give_back(self, buffer: PooledBuffer, block: _Block) -> None:
        """Count one holder less; the last one frees the block."""
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

    def _make(self) -> _Block:
        memory = aligned_memory(self.size_bytes)
        self._made_count += 1
        return _Block(memory, memoryview(memory))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _unmap(block: _Block) -> None:
    # A slice that somebody still keeps forbids unmapping; the memory then goes when the slice does.
    with contextlib.suppress(BufferError):
        block.view.release()
        block.memory.close()
