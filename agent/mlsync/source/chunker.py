"""Read a file once, from front to back, and yield it in pieces: views of pool buffers, without a copy per piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

import xxhash
from pyfastcdc import FastCDC

from mlsync.buffers import BufferPool, PooledBuffer
from mlsync.formats.layout import Layout, Storage
from mlsync.source.reading import SourceFile
from mlsync.source.record_crc import RecordChecks
from mlsync.source.spans import CHUNKINGS, PIECE_BYTES_MAX, TENSOR_PIECE_BYTES, Cut, Span, plan_spans

__all__ = ["PIECE_BYTES_MAX", "TENSOR_PIECE_BYTES", "Digester", "Piece", "plan_spans", "read_pieces", "tensor_id"]

# Length and seeded digest of a piece by its offset.
Earlier: TypeAlias = Mapping[int, tuple[int, bytes]]
_NONE: Final = (0, b"")

# The reader holds two buffers while it copies the end of one to the start of the next.
_BUFFER_COUNT_MIN: Final = 2


@dataclass(slots=True)
class Piece:
    """A piece of a file and its seeded xxh3-128; the receiver releases it.

    *item_bytes* is the width of its numbers, which start at its first byte; 0 if unknown. *tensor* is the same for the
    same part of the same tensor in every file that has it, whatever its values; 0 for what is no part of one.
    """

    offset: int
    length: int
    view: memoryview
    digest: bytes
    buffer: PooledBuffer
    item_bytes: int = 0
    tensor: int = 0

    def release(self) -> None:
        """Release the view and the reference to its buffer; a second call does nothing."""
        self.view.release()
        self.buffer.release()


class Digester(Protocol):
    """A running digest of a file's data, which is fed in file order; it knows itself what lies in between."""

    def update(self, view: memoryview, /) -> None:
        """Feed the next bytes."""

    def digest(self) -> bytes:
        """Return the digest of the file, after all of its data."""


def read_pieces(
    file: SourceFile,
    layout: Layout | None,
    extents: Sequence[tuple[int, int]],
    pool: BufferPool,
    seed: int,
    whole: Digester | None = None,
    storages: Sequence[Storage] = (),
    earlier: Earlier = MappingProxyType({}),
) -> Iterator[Piece]:
    """Yield the pieces of the data *extents*, in file order; every byte is read once.

    Raises ``ChangedWhileReading`` if the file ends too early or a record does not match its CRC; the pieces before that
    are then useless. The caller asks ``file.confirm``. *whole*, if given, was fed all bytes after the last piece.
    *storages* are the tensors in the layout's extents. *earlier* is how the file was cut last time: where its bytes are
    the same, it is not searched for cuts again.

    Several pieces may share one buffer, so a piece that is kept can hold up to a buffer's worth of memory.
    """
    if pool.size_bytes < PIECE_BYTES_MAX or pool.count < _BUFFER_COUNT_MIN:
        msg = f"pieces need {_BUFFER_COUNT_MIN} buffers of {PIECE_BYTES_MAX} bytes at least"
        raise ValueError(msg)
    checks = RecordChecks(layout.extents if layout is not None else (), file.where)
    reader = _Reader(file, pool, seed, checks, whole, earlier)
    for batch in _batches(plan_spans(layout, file.size_bytes, extents, storages), pool.size_bytes):
        if batch[0].cut == "whole":
            yield from reader.whole_spans(batch)
        else:
            yield from reader.cut_span(batch[0])
    reader.checks.finish()


def _batches(spans: Iterable[Span], room_bytes: int) -> Iterator[list[Span]]:
    """Group adjacent whole spans that fit into a buffer; a span to be cut stays alone."""
    batch: list[Span] = []
    for span in spans:
        fits = bool(batch) and (
            span.cut == batch[-1].cut == "whole"
            and span.offset == batch[-1].offset + batch[-1].length
            and span.offset + span.length - batch[0].offset <= room_bytes
        )
        if batch and not fits:
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch


@dataclass
class _Reader:
    file: SourceFile
    pool: BufferPool
    seed: int
    checks: RecordChecks
    whole: Digester | None
    earlier: Earlier

    def whole_spans(self, spans: Sequence[Span]) -> Iterator[Piece]:
        """Read adjacent spans with one call, and yield each as a piece."""
        first, last = spans[0].offset, spans[-1].offset + spans[-1].length
        with self.pool.acquire() as buffer:
            self._read(first, buffer.view[: last - first])
            for span in spans:
                yield self._piece(buffer, first, span.offset, span.length, span.item_bytes, tensor_id(span))

    def cut_span(self, span: Span) -> Iterator[Piece]:
        """Read a span buffer by buffer and cut it as if it were in memory as a whole.

        A cut depends only on the bytes since the cut before it, so the end of a buffer without a cut is moved in front
        of the next bytes and searched again.
        """
        end = span.offset + span.length
        start = reached = span.offset  # of the buffer's first byte; of the next byte to read
        buffer = self.pool.acquire()
        try:
            while True:
                upto = min(end, start + self.pool.size_bytes)
                self._read(reached, buffer.view[reached - start : upto - start])
                reached = upto
                cut = start
                for piece in self._pieces(span, buffer, start, upto):
                    cut += piece.length
                    yield piece
                if upto == end:
                    return
                following = self.pool.acquire()
                following.view[: upto - cut] = buffer.view[cut - start : upto - start]
                buffer.release()
                buffer, start = following, cut
        finally:
            buffer.release()

    def _pieces(self, span: Span, buffer: PooledBuffer, start: int, upto: int) -> Iterator[Piece]:
        """Yield the pieces of a span from *start* on (where *buffer* begins) that bytes behind *upto* cannot change."""
        cut = start
        while (piece := self._earlier_piece(buffer, start, cut, upto)) is not None:
            cut += piece.length
            yield piece
        is_last = upto == span.offset + span.length
        if start < cut and not is_last and cut + self.earlier.get(cut, _NONE)[0] > upto:
            # The earlier piece ends in the next buffer, where it is tried first.
            return
        for length in _cuts(span.cut, buffer.view[cut - start : upto - start], is_last=is_last):
            yield self._piece(buffer, start, cut, length)
            cut += length

    def _earlier_piece(self, buffer: PooledBuffer, start: int, cut: int, upto: int) -> Piece | None:
        """Return the piece that was cut at *cut* last time if its bytes are unchanged: then so is its end."""
        known = self.earlier.get(cut)
        if known is None or cut + known[0] > upto:
            return None
        piece = self._piece(buffer, start, cut, known[0])
        if piece.digest == known[1]:
            return piece
        piece.release()
        return None

    def _read(self, offset: int, view: memoryview) -> None:
        self.file.read_into(offset, view)
        self.checks.update(offset, view)
        if self.whole is not None:
            self.whole.update(view)

    def _piece(
        self, buffer: PooledBuffer, start: int, offset: int, length: int, item_bytes: int = 0, tensor: int = 0
    ) -> Piece:
        view = buffer.view[offset - start : offset - start + length]
        digest = xxhash.xxh3_128_digest(view, self.seed)
        return Piece(offset, length, view, digest, buffer.share(), item_bytes, tensor)


def tensor_id(span: Span) -> int:
    """Return the 64 bits by which a part of a tensor is found again in an earlier file; 0 if it is none of one.

    Two tensors of one id, which nobody has to fear, would cost some compression and nothing else.
    """
    if not span.item_bytes or not span.tensor:
        return 0
    named = f"{span.item_bytes} {span.within} {span.length} {span.tensor}"
    return xxhash.xxh3_64_intdigest(named.encode("utf-8", "surrogatepass")) or 1


def _cuts(cut: Cut, view: memoryview, *, is_last: bool) -> Iterator[int]:
    """Yield the lengths of the pieces of *view* that more bytes behind it would not change."""
    max_bytes = CHUNKINGS[cut].max_bytes
    reached = 0
    for chunk in _chunker(cut).cut_buf(view):
        length: int = chunk.length
        reached += length
        if reached == len(view) and length < max_bytes and not is_last:
            return
        yield length


@cache
def _chunker(cut: Cut) -> FastCDC:
    sizes = CHUNKINGS[cut]
    return FastCDC(avg_size=sizes.average_bytes, min_size=sizes.min_bytes, max_size=sizes.max_bytes)
