"""Ranges of two stored files, side by side; ranges made of the same chunks are equal, and are not read."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.reader import ChunkReader, Plain
from mlsync.versions.stored_file import parts_of

# The length of a piece of a large tensor, so that a window is usually one chunk; a multiple of every element's width.
WINDOW_BYTES: Final = 2 << 20
# Small tensors share chunks: if their order changed, the same chunk is needed several times.
HELD_BYTES: Final = 8 << 20


class ByteRange(NamedTuple):
    """A range of a file's bytes."""

    offset: int
    length: int


class RangePair(NamedTuple):
    """The ranges to be compared: one of the earlier file and one of the later."""

    before: ByteRange
    after: ByteRange


class WindowPair(NamedTuple):
    """The next bytes of both sides of the *pair*-th pair, valid until the next window.

    *after* is ``None`` if it is made of the same chunks as *before*, and was not read.
    """

    pair: int
    before: memoryview
    after: memoryview | None


class SideBySide:
    """Two files whose ranges are compared; holds a few chunks and a window of each, whatever their length."""

    def __init__(self, reader: ChunkReader, before: Entry, after: Entry) -> None:
        self._reader = reader
        self._before = _Side(before)
        self._after = _Side(after)

    def are_same(self, both: RangePair) -> bool:
        """Return whether both ranges are made of the same chunks at the same places, and so are equal."""
        if both.before.length != both.after.length:
            return False
        return all(step.is_same for step in self._steps([both]))

    def windows(self, pairs: Sequence[RangePair], advance: Callable[[int], None]) -> Iterator[WindowPair]:
        """Yield all pairs in order, window by window; *advance* gets the bytes of the earlier file that were passed.

        All chunks come from one stream, so that neighbours in a pack are fetched in one call and ahead of time.
        """
        chunks = self._reader.stream(self._refs(pairs))
        self._before.held = _Held()
        self._after.held = _Held()
        for step in self._steps(pairs):
            before = self._before.take(step.before, chunks)
            yield WindowPair(step.pair, before, None if step.is_same else self._after.take(step.after, chunks))
            advance(len(before))

    def _refs(self, pairs: Sequence[RangePair]) -> Iterator[ChunkRef]:
        """Yield the chunks in the order in which ``_Side.take`` will ask for them."""
        held_before, held_after = _Held(), _Held()
        for step in self._steps(pairs):
            yield from _missing(step.before, held_before)
            if not step.is_same:
                yield from _missing(step.after, held_after)

    def _steps(self, pairs: Iterable[RangePair]) -> Iterator[_Step]:
        for pair, (before, after) in enumerate(pairs):
            for at in range(0, max(before.length, after.length), WINDOW_BYTES):
                yield _Step(pair, self._before.pieces(_cut(before, at)), self._after.pieces(_cut(after, at)))


def _cut(byte_range: ByteRange, at: int) -> ByteRange:
    """Return the part of a range that is in the window *at* bytes from its start."""
    return ByteRange(byte_range.offset + at, min(WINDOW_BYTES, max(byte_range.length - at, 0)))


class _Piece(NamedTuple):
    """*length* bytes of the *part*-th part of a file, from *begin* on."""

    part: int
    ref: ChunkRef | None
    begin: int
    length: int

    @property
    def content(self) -> tuple[bytes, int, int]:
        """A key that is equal for pieces of equal bytes, in any file."""
        return (b"", 0, self.length) if self.ref is None else (self.ref.name, self.begin, self.length)


class _Step(NamedTuple):
    """A window before it is read."""

    pair: int
    before: list[_Piece]
    after: list[_Piece]

    @property
    def is_same(self) -> bool:
        return [piece.content for piece in self.before] == [piece.content for piece in self.after]


class _Held:
    """The most recently used chunks of a file, by part: as many as fit into HELD_BYTES, and at least one."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[int, bytes] = OrderedDict()
        self._lengths: dict[int, int] = {}
        self._held_bytes = 0

    def __contains__(self, part: int) -> bool:
        return part in self._lengths

    def use(self, part: int) -> bytes:
        """Return a chunk that is held, and mark it as used."""
        self._chunks.move_to_end(part)
        return self._chunks[part]

    def hold(self, part: int, length: int, chunk: bytes = b"") -> None:
        """Hold a chunk instead of the least recently used ones; a planner passes its *length* without the bytes."""
        while self._chunks and self._held_bytes + length > HELD_BYTES:
            self._held_bytes -= self._lengths.pop(self._chunks.popitem(last=False)[0])
        self._chunks[part], self._lengths[part] = chunk, length
        self._held_bytes += length


class _Side:
    """One of the two files, and its chunks that are *held*."""

    def __init__(self, entry: Entry) -> None:
        self._parts = parts_of(entry)
        self._offsets = [part.offset for part in self._parts]
        self._window = bytearray()
        self.held = _Held()

    def pieces(self, byte_range: ByteRange) -> list[_Piece]:
        """Return the pieces of a range."""
        pieces: list[_Piece] = []
        at, end = byte_range.offset, byte_range.offset + byte_range.length
        index = bisect_right(self._offsets, at) - 1
        while at < end:
            part = self._parts[index]
            length = min(part.offset + part.length, end) - at
            pieces.append(_Piece(index, part.ref, at - part.offset, length))
            at, index = at + length, index + 1
        return pieces

    def take(self, pieces: list[_Piece], chunks: Iterator[Plain]) -> memoryview:
        """Return the bytes of *pieces*, with the chunks that are not held taken from *chunks*."""
        if len(pieces) == 1:
            return self._bytes_of(pieces[0], chunks)
        length = sum(piece.length for piece in pieces)
        if len(self._window) < length:
            self._window = bytearray(length)
        window = memoryview(self._window)[:length]
        at = 0
        for piece in pieces:
            window[at : at + piece.length] = self._bytes_of(piece, chunks)
            at += piece.length
        return window

    def _bytes_of(self, piece: _Piece, chunks: Iterator[Plain]) -> memoryview:
        if piece.ref is None:
            return memoryview(bytes(piece.length))
        if piece.part not in self.held:
            # Copied: a view of the stream is valid only until the next one, which may be the other side's.
            self.held.hold(piece.part, piece.ref.plain_bytes, bytes(next(chunks)))
        return memoryview(self.held.use(piece.part))[piece.begin : piece.begin + piece.length]


def _missing(pieces: list[_Piece], held: _Held) -> Iterator[ChunkRef]:
    """Yield the chunks that have to be fetched, and count them as *held* as ``_Side`` will hold them."""
    for piece in pieces:
        if piece.ref is None:
            continue
        if piece.part not in held:
            held.hold(piece.part, piece.ref.plain_bytes)
            yield piece.ref
        held.use(piece.part)
