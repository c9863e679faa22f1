"""Where a file's chunks may be opened: right in the memory that the child sees, so that nobody copies them there.

A room is for one chunk that lies in one storage, begins and ends between two of its numbers, and is large enough to be
windows of its own. Rooms are given in the order of the file and given back in the same order, when the child is done
with what lay there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mlsync.formats.layout import Storage

# What is shorter is copied, many to a window: a window costs a message each way.
ROOM_BYTES_MIN = 512 << 10


@dataclass(frozen=True, slots=True)
class Room:
    """*length* bytes of the child's memory, from the window *place* on; *memory* goes on to the last window's end."""

    place: int
    length: int
    memory: memoryview


class Rooms:
    """Gives windows of *window_bytes* of *blocks*, from the *first* on; no room reaches over a block's edge."""

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

    def room(self, offset: int, length: int) -> Room | None:
        """Room for the file's *length* bytes at *offset*; ``None`` where they are to be copied, or all is taken."""
        if length < ROOM_BYTES_MIN or not self._is_inside(offset, offset + length):
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
        return Room(place, length, self._blocks[block][start : start + count * self._window_bytes])

    def give_back(self) -> None:
        """Take back the room that was given first."""
        self._free_count += self._taken.popleft()

    def _is_inside(self, start: int, end: int) -> bool:
        """Whether a stretch, which begins no earlier than the last one, is whole numbers of one storage."""
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
