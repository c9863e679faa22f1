"""Chunks opened in the memory that the child sees, so that nobody copies them there.

An allocation is for one chunk that is part of one storage, begins and ends between two of its numbers, and is large
enough for windows of its own. Allocations are made in the order of the file and freed in the same order, when the child
is done with their bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mlsync.formats.layout import Storage

# Shorter chunks are copied, many to a window: a window costs a message each way.
IN_PLACE_BYTES_MIN = 512 << 10


@dataclass(frozen=True, slots=True)
class Allocation:
    """*length* bytes of the child's memory, from the window *place* on; *memory* goes on to the last window's end."""

    place: int
    length: int
    memory: memoryview


class WindowAllocator:
    """Allocates windows of *window_bytes* in *blocks*, from the *first* on; no allocation crosses a block's edge."""

    def __init__(
        self, blocks: Sequence[memoryview], window_bytes: int, first: int, storages: Sequence[Storage]
    ) -> None:
        self._blocks = blocks
        self._window_bytes = window_bytes
        self._block_count = len(blocks[0]) // window_bytes
        self._first = self._next = first
        self._free_count = self._block_count * len(blocks) - first
        self._taken: deque[int] = deque()
        self._storages = storages
        self._storage = 0

    def allocate(self, offset: int, length: int) -> Allocation | None:
        """Allocate *length* bytes of the file at *offset*; ``None`` if they are to be copied or none is free."""
        if length < IN_PLACE_BYTES_MIN or not self._is_inside(offset, offset + length):
            return None
        count = -(-length // self._window_bytes)
        left_count = self._block_count - self._next % self._block_count
        skipped_count = left_count if count > left_count else 0
        place = self._next + skipped_count
        if place == self._block_count * len(self._blocks):
            place = self._first
        if count > self._block_count - place % self._block_count or skipped_count + count > self._free_count:
            return None
        self._free_count -= skipped_count + count
        self._taken.append(skipped_count + count)
        self._next = place + count
        block, at = divmod(place, self._block_count)
        start = at * self._window_bytes
        return Allocation(place, length, self._blocks[block][start : start + count * self._window_bytes])

    def free_oldest(self) -> None:
        """Free the oldest allocation."""
        self._free_count += self._taken.popleft()

    def _is_inside(self, start: int, end: int) -> bool:
        """Return whether a range, which begins no earlier than the last one, is whole numbers of one storage."""
        storages = self._storages
        while self._storage < len(storages) and _end(storages[self._storage]) <= start:
            self._storage += 1
        if self._storage == len(storages):
            return False
        storage = storages[self._storage]
        if start < storage.offset or end > _end(storage):
            return False
        return not (start - storage.offset) % storage.item_bytes and not (end - storage.offset) % storage.item_bytes


def _end(storage: Storage) -> int:
    return storage.offset + storage.length
