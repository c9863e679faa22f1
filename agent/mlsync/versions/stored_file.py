"""A file of a version, read from the store: a restore writes, and a proof checks, the same bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from mlsync.codec.digest import FileDigester, digest_of_whole
from mlsync.errors import ManifestDamaged, ObjectDamaged
from mlsync.proof.prover import Allocate
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.reader import ChunkReader

_ZEROS: Final = memoryview(bytes(1 << 20))
# The data between tensors: headers, pickles, directories. Parsers read them in any order, and again and again.
SMALL_CHUNK_BYTES_MAX: Final = 64 << 10
SMALL_BYTES_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class FileSpan:
    """A span of a file: a chunk, or a hole if *ref* is ``None``."""

    offset: int
    length: int
    ref: ChunkRef | None


def parts_of(entry: Entry) -> list[FileSpan]:
    """Return the spans of a file in order; they cover it exactly."""
    parts: list[FileSpan] = []
    offset = 0
    holes = iter((*entry.holes, (entry.size_bytes, 0)))
    hole_offset, hole_length = next(holes)
    for ref in entry.chunks:
        while offset == hole_offset and hole_length:
            parts.append(FileSpan(offset, hole_length, None))
            offset += hole_length
            hole_offset, hole_length = next(holes)
        if offset + ref.plain_bytes > hole_offset:
            raise ManifestDamaged(f"a chunk reaches into a hole: {entry.path!r}")
        parts.append(FileSpan(offset, ref.plain_bytes, ref))
        offset += ref.plain_bytes
    if hole_length:
        parts.append(FileSpan(offset, hole_length, None))
        offset += hole_length
    if offset != entry.size_bytes:
        raise ManifestDamaged(f"chunks and holes do not cover the file: {entry.path!r}")
    return parts


class RestoredFile:
    """Random and sequential access to a file of a version; holds a few chunks at most, and some small ones.

    *advance* is called with the number of bytes that were read in order, only once for each byte.
    """

    #: One byte more may take another chunk of some MiB: parsers must not read ahead.
    is_far = True

    def __init__(self, reader: ChunkReader, entry: Entry, advance: Callable[[int], None]) -> None:
        self._reader = reader
        self._entry = entry
        self._advance = advance
        self._reported_bytes = 0
        self._parts = parts_of(entry)
        self._offsets = [part.offset for part in self._parts]
        self._held: tuple[int, bytes] | None = None
        self._small: dict[int, bytes] | None = None

    @property
    def size_bytes(self) -> int:
        """The file's length."""
        return self._entry.size_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """Return *length* bytes at *offset*, such as headers and directories of a container."""
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError("read outside of the file")
        taken = bytearray()
        while len(taken) < length:
            at = offset + len(taken)
            index = bisect_right(self._offsets, at) - 1
            part = self._parts[index]
            begin = at - part.offset
            end = min(part.length, begin + length - len(taken))
            taken += bytes(end - begin) if part.ref is None else self._chunk(index, part.ref)[begin:end]
        return bytes(taken)

    def stream(self, allocate: Allocate | None = None) -> Iterator[memoryview]:
        """Yield the whole file in order; after the last byte, compare the digest of the whole file.

        A chunk for which *allocate* gives memory is opened there.
        """
        stretches = [part for part in self._parts if part.ref is not None] if allocate is not None else []
        allocate_for = (
            None if allocate is None else lambda number: allocate(stretches[number].offset, stretches[number].length)
        )
        offset = 0
        for view in whole(self._entry, self._reader.stream(self._entry.chunks, allocate_for)):
            yield view
            offset += len(view)
            reported_bytes, self._reported_bytes = self._reported_bytes, max(self._reported_bytes, offset)
            self._advance(self._reported_bytes - reported_bytes)

    def _chunk(self, index: int, ref: ChunkRef) -> bytes:
        if self._small is None:
            self._small = dict(self._small_chunks())
        if index in self._small:
            return self._small[index]
        if self._held is None or self._held[0] != index:
            self._held = (index, self._reader.one(ref))
        return self._held[1]

    def _small_chunks(self) -> Iterator[tuple[int, bytes]]:
        """Yield the small chunks, fetched together: one after the other, each would cost a round trip."""
        wanted: list[tuple[int, ChunkRef]] = []
        left_bytes = SMALL_BYTES_MAX
        for index, part in enumerate(self._parts):
            if part.ref is not None and part.length <= min(SMALL_CHUNK_BYTES_MAX, left_bytes):
                wanted.append((index, part.ref))
                left_bytes -= part.length
        chunks = self._reader.stream(ref for _, ref in wanted)
        for (index, _), chunk in zip(wanted, chunks, strict=True):
            yield index, bytes(chunk)


def whole(entry: Entry, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
    """Yield a file in order from its *chunks*; each view is valid until the next is taken.

    After the last byte, raise ``ObjectDamaged`` if the digest of the whole file differs.
    """
    digester = FileDigester(entry.digest[0], entry.holes)
    for part in parts_of(entry):
        if part.ref is None:
            yield from zeros(part.length)
            continue
        view = next(chunks)
        digester.update(view)
        yield view
    if digester.digest() != entry.digest:
        raise _put_together_wrongly(entry)


def check_whole(entry: Entry, chunks: Iterator[memoryview]) -> None:
    """Take a file's chunks, and raise ``ObjectDamaged`` if the digest of the whole file differs."""
    if len(entry.chunks) == 1 and entry.chunks[0].plain_bytes == entry.size_bytes:
        # Most small files: what follows takes five times as long as the digest.
        if digest_of_whole(next(chunks)) != entry.digest:
            raise _put_together_wrongly(entry)
        return
    for _ in whole(entry, chunks):
        pass


def _put_together_wrongly(entry: Entry) -> ObjectDamaged:
    """Return the error for a file of which every chunk has its right name, and which is another one all the same."""
    return ObjectDamaged("a file's chunks do not make the file", where=repr(entry.path))


def zeros(length: int) -> Iterator[memoryview]:
    """Yield *length* zero bytes, as a hole has them."""
    while length > 0:
        piece = _ZEROS[: min(length, len(_ZEROS))]
        yield piece
        length -= len(piece)
