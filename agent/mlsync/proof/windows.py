"""Tensor bytes gathered into windows that the child sees, and its answers checked against those bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias

from mlsync.formats.layout import BIG_ENDIAN, Storage
from mlsync.proof.child import WINDOW_COUNT, WINDOW_STRIDE_BYTES, ProofChild
from mlsync.proof.digest import UNIT_BYTES, WindowDigest
from mlsync.proof.in_place import Allocation, WindowAllocator

# Keeps a window's message small when it is full of tiny storages
SEGMENTS_MAX = 4096
# Storages up to this length are counted together with their neighbours of the same type: one by one each would cost
# more than its bytes do. They are counted apart where something is wrong among them.
SMALL_BYTES_MAX = 16 << 10
# A segment's counts: NaN, infinite, zero, at float16's limit; then lowest and highest where both have the same
# magnitude, and the norm, each a number or null
_ROW_LENGTH, _WHOLE_NUMBERS = 7, 4
# How many bytes each number has that the device counts, of types that every torch knows
_NUMBER_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "complex128": 8,
    "complex64": 4,
}
# The same of types that only newer torches know
_PERHAPS = {
    "complex32": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}
# Types with nothing to count: no pattern of bits is NaN or infinite
_WHOLE = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "qint8",
        "qint32",
        "quint8",
        "float4_e2m1fn_x2",
        "text",
    ]
)


# The storage's index, its type, its offset and length in the window; then the lengths of it and of those behind it, if
# they are counted together
WindowSegment: TypeAlias = tuple[int, str, int, int] | tuple[int, str, int, int, list[int]]


@dataclass(slots=True)
class Counts:
    """What the device counted in one storage; *low* and *high* are ``None`` where not all numbers can be one.

    *square_sum* is that of all its numbers, ``None`` where one of them is not finite. Of small storages among which
    nothing is wrong the first has the counts of all.
    """

    nan: int = 0
    infinite: int = 0
    zero: int = 0
    saturated: int = 0
    low: float | None = None
    high: float | None = None
    square_sum: float | None = 0.0
    counted_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Sent:
    """A window without an answer yet, and what its answer must say."""

    index: int
    digest: Callable[[], int]
    segments: list[WindowSegment]
    ends_allocation: bool = False


@dataclass(slots=True)
class _Group:
    """Small storages of one type, adjacent in the file and in the window; each is whole numbers."""

    first: int
    dtype: str
    start: int
    number_bytes: int
    lengths: list[int]


def windows_in_memory(memory: dict[str, int], window_bytes: int) -> dict[str, int]:
    """Return where the child finds its windows if they are *window_bytes* apart."""
    count = memory["count"] * memory["stride_bytes"] // window_bytes
    return {**memory, "count": count, "stride_bytes": window_bytes}


class WindowSender:
    """Sends one file's storages; after ``finish`` the device has digested every byte, and ``counts`` is complete.

    ``uncounted`` are then the types of which the child's torch knows no numbers, and ``unseen`` those of which no torch
    does: blocks of numbers, numbers of the other byte order, bytes of any kind.
    """

    def __init__(
        self, child: ProofChild, digest: WindowDigest, window_bytes: int, stride_bytes: int, storages: Sequence[Storage]
    ) -> None:
        self.counts: dict[int, Counts] = {}
        self.uncounted: set[str] = set()
        self.unseen: set[str] = set()
        self.copied_bytes = 0
        self.lent_memory = False
        self._child = child
        self._digest = digest
        self._window_bytes = min(window_bytes, stride_bytes)
        blocks = [child.window(index) for index in range(WINDOW_COUNT)]
        per_block = WINDOW_STRIDE_BYTES // stride_bytes
        # The first windows are copied to; chunks are opened in the others, if there are more.
        self._windows = [
            blocks[place // per_block][place % per_block * stride_bytes :][: self._window_bytes]
            for place in range(WINDOW_COUNT)
        ]
        is_in_place = per_block > 1 and self._window_bytes == stride_bytes
        self._allocator = WindowAllocator(blocks, stride_bytes, WINDOW_COUNT, storages) if is_in_place else None
        self._given: dict[int, Allocation] = {}
        self._storages = storages
        self._place = 0
        self._used = 0
        self._segments: list[WindowSegment] = []
        self._group: _Group | None = None
        self._small_count = 0
        self._sent: deque[_Sent] = deque()
        self._index = 0

    @property
    def _window(self) -> memoryview:
        """The window that is being filled; the child has answered for its previous content."""
        return self._windows[self._place]

    def allocate(self, offset: int, length: int) -> memoryview | None:
        """Return memory that the file's *length* bytes at *offset* are written to, or ``None``; asked in file order."""
        allocation = None if self._allocator is None else self._allocator.allocate(offset, length)
        if allocation is None:
            return None
        self.lent_memory = True
        self._given[offset] = allocation
        return allocation.memory[:length]

    def add(self, storage: int, piece: memoryview, offset: int) -> None:
        """Send the next bytes of the *storage*-th storage, which are at *offset* in the file."""
        allocation = self._given.pop(offset, None)
        if allocation is not None:
            self._send_in_place(storage, allocation)
            return
        self.copied_bytes += len(piece)
        if len(piece) == self._storages[storage].length <= SMALL_BYTES_MAX and self._add_small(storage, piece):
            return
        self._end_group()
        while piece:
            window = self._window
            count = min(len(window) - self._used, len(piece))
            window[self._used : self._used + count] = piece[:count]
            self._note(storage, count)
            self._used += count
            piece = piece[count:]
            if self._used == len(window):
                self._flush()

    def close_storage(self) -> None:
        """Pad the window to where the next storage may begin, unless it joins a group of small ones."""
        if self._group is None:
            self._pad()
            if self._used == len(self._window) or len(self._segments) + self._small_count >= SEGMENTS_MAX:
                self._flush()

    def finish(self) -> None:
        """Send the rest, and wait until the device has answered for every window."""
        self.close_storage()  # the stream may have ended in the middle of one
        self._flush()
        self._child.send({"end": self._index})
        while self._sent:
            self._check(self._child.wait_answer())
        if self._child.wait_answer() != {"ended": self._index}:
            self._child.protocol_error("an answer to a question that was not asked")

    def _add_small(self, storage: int, piece: memoryview) -> bool:
        """Append a whole small storage to its group; return false where it is to be sent like larger ones."""
        length = len(piece)
        dtype = self._storages[storage].dtype
        group = self._group
        if (
            group is None
            or group.dtype != dtype
            or group.first + len(group.lengths) != storage
            or self._used + length > self._window_bytes
            or len(self._segments) + self._small_count >= SEGMENTS_MAX
        ):
            self._end_group()
            self.close_storage()
            if self._used + length > self._window_bytes:
                return False
            number_bytes = _NUMBER_BYTES.get(dtype) or _PERHAPS.get(dtype) or 1
            group = _Group(storage, dtype, self._used, number_bytes, [])
        if length % group.number_bytes:
            return False
        self._group = group
        self._window[self._used : self._used + length] = piece
        self._used += length
        self._small_count += 1
        group.lengths.append(length)
        return True

    def _end_group(self) -> None:
        """Make a segment of the group of small storages, and pad the window to where the next one may begin."""
        group, self._group = self._group, None
        if group is not None:
            length = self._used - group.start
            segment = (group.first, group.dtype, group.start, length)
            self._segments.append((*segment, group.lengths) if len(group.lengths) > 1 else segment)
            self._pad()

    def _pad(self) -> None:
        padding = -self._used % UNIT_BYTES
        self._window[self._used : self._used + padding] = bytes(padding)
        self._used += padding

    def _note(self, storage: int, count: int) -> None:
        """Add the bytes to the storage's segment in this window."""
        if self._segments and self._segments[-1][0] == storage:
            _, dtype, start, length = self._segments[-1][:4]
            self._segments[-1] = (storage, dtype, start, length + count)
        else:
            self._segments.append((storage, self._storages[storage].dtype, self._used, count))

    def _send_in_place(self, storage: int, allocation: Allocation) -> None:
        """Send what was written to an allocation, which is windows of its own."""
        dtype = self._storages[storage].dtype
        for start in range(0, allocation.length, self._window_bytes):
            count = min(self._window_bytes, allocation.length - start)
            end = start + count + -count % UNIT_BYTES
            allocation.memory[start + count : end] = bytes(-count % UNIT_BYTES)
            place = allocation.place + start // self._window_bytes
            is_last = start + count == allocation.length
            self._send(allocation.memory[start:end], place, [(storage, dtype, 0, count)], ends_allocation=is_last)

    def _flush(self) -> None:
        self._end_group()
        if not self._used:
            return
        self._send(self._window[: self._used], self._place, self._segments)
        # Its last content has been answered for: it was sent before the windows that still wait for an answer.
        self._place = (self._place + 1) % WINDOW_COUNT
        self._used = self._small_count = 0
        self._segments = []

    def _send(
        self, window: memoryview, place: int, segments: list[WindowSegment], *, ends_allocation: bool = False
    ) -> None:
        """Send a window's message; afterwards fewer than *WINDOW_COUNT* wait for an answer."""
        digest = self._digest.start(window, self._index)
        self._sent.append(_Sent(self._index, digest, segments, ends_allocation))
        self._child.send({"window": self._index, "place": place, "length": len(window), "segments": segments})
        self._index += 1
        while (answer := self._child.take_answer()) is not None:
            self._check(answer)
        while len(self._sent) >= WINDOW_COUNT:
            self._check(self._child.wait_answer())

    def _check(self, answer: dict[str, Any]) -> None:
        """Check an answer against the oldest window that waits for one."""
        if not self._sent or answer.get("window") != self._sent[0].index:
            self._child.protocol_error("an answer to a question that was not asked")
        sent = self._sent.popleft()
        if answer.get("digest") != sent.digest():
            self._child.protocol_error(
                "another digest than that of the bytes it was sent: the device or the way to it is at fault"
            )
        if sent.ends_allocation and self._allocator is not None:
            self._allocator.free_oldest()
        counts = answer.get("counts")
        if not isinstance(counts, list) or len(counts) != len(sent.segments):
            self._child.protocol_error("counts of other tensors than it was sent")
        for segment, row in zip(sent.segments, counts, strict=True):
            self._add_rows(segment, row)

    def _add_rows(self, segment: WindowSegment, row: Any) -> None:
        """Add the counts of a segment: one row for all of it, or one for each of the storages in it."""
        storage, dtype, _, length, *more = segment
        parts = more[0] if more else None
        if parts is not None and isinstance(row, list) and len(row) == len(parts) and isinstance(row[0], list):
            for place, (part_length, part_row) in enumerate(zip(parts, row, strict=True)):
                self._add_rows((storage + place, dtype, 0, part_length), part_row)
            return
        if not _is_plausible(row, dtype, length) or (parts is not None and not _is_clean(row)):
            self._child.protocol_error("counts that cannot be")
        if row is not None:
            self._add_counts(storage, length, row)
        elif length and dtype in _PERHAPS:
            self.uncounted.add(dtype)
        elif length and dtype.removeprefix(BIG_ENDIAN) not in _WHOLE:
            self.unseen.add(dtype)

    def _add_counts(self, storage: int, length: int, row: Any) -> None:
        nan, infinite, zero, saturated, low, high, norm = row
        known = storage in self.counts
        counts = self.counts.setdefault(storage, Counts())
        counts.nan += nan
        counts.infinite += infinite
        counts.zero += zero
        counts.saturated += saturated
        counts.low = _bound(counts.low, low, known=known, choose=min)
        counts.high = _bound(counts.high, high, known=known, choose=max)
        counts.square_sum = None if norm is None or counts.square_sum is None else counts.square_sum + norm * norm
        counts.counted_bytes += length


def _is_plausible(row: object, dtype: str, length: int) -> bool:
    """Return whether a correct child could report this of *length* bytes of that type."""
    number_bytes = _NUMBER_BYTES.get(dtype) or _PERHAPS.get(dtype)
    if row is None:
        return dtype not in _NUMBER_BYTES or length == 0
    if number_bytes is None or not isinstance(row, list) or len(row) != _ROW_LENGTH:
        return False
    whole, real = row[:_WHOLE_NUMBERS], row[_WHOLE_NUMBERS:]
    return all(type(number) is int and 0 <= number <= length // number_bytes for number in whole) and all(
        number is None or (isinstance(number, float) and isfinite(number)) for number in real
    )


def _is_clean(row: Any) -> bool:
    """Return whether a row of several storages has nothing for which they would have to be counted apart."""
    return row is None or not (row[0] or row[1] or row[3] or row[6] is None)


def _bound(old: float | None, new: object, *, known: bool, choose: Any) -> float | None:
    """Return the lower or higher of two bounds; ``None`` wins over any."""
    if not isinstance(new, (int, float)) or (known and old is None):
        return None
    return float(new) if not known else float(choose(old, new))
