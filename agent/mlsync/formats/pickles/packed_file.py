"""Pickles that were compressed as a whole: ``joblib.dump(compress=...)``, or with gzip, bz2 or xz.

The stream is decompressed to its end, where its checksum is; then the pickle machine runs over it as over a file.
Decompressed bytes are dropped piece by piece. Blocks of lz4 are checked, but not decompressed.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from mlsync.formats.faults import NotChecked, RecordDamaged, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Layout
from mlsync.formats.pickles.pickle_file import read_pickle_content, read_pickle_layout

#: The largest decompressed stream: some seconds' work.
PLAIN_BYTES_MAX = 256 << 20
BLOCKS_MAX = 200_000
STREAMS_MAX = 1000
#: How many decompressed bytes are kept, so that a step back within them costs nothing.
KEPT_BYTES_MAX = 16 << 20
_FEED_BYTES: Final = 64 << 10
_PIECE_BYTES: Final = 1 << 20
_LZMA_MEMORY_BYTES: Final = 80 << 20
_NAME = re.compile(rb".*\.(pkl|pickle|joblib)(\.(z|gz|bz2|lzma|xz|lz4))?", re.IGNORECASE | re.DOTALL)
_GZIP, _BZ2, _XZ, _LZMA, _LZ4 = b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x5d\0\0", b"\x04\x22\x4d\x18"
_ZLIB: Final = frozenset({b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"})
_PICKLE: Final = b"\x80"


def is_packed_pickle(path: bytes, head: bytes) -> bool:
    """Return whether a file that is named like a pickle begins as a compressed stream."""
    return _NAME.fullmatch(path) is not None and _way(head) is not None


def _way(head: bytes) -> str | None:
    for begin, way in ((_GZIP, "gzip"), (_BZ2, "bz2"), (_XZ, "xz"), (_LZMA, "xz"), (_LZ4, "lz4")):
        if head.startswith(begin):
            return way
    return "zlib" if head[:2] in _ZLIB else None


@dataclass(frozen=True, slots=True)
class PackedPickleLayout(Layout):
    """How the file is compressed, and how long it is when it is not."""

    way: str = ""
    plain_bytes: int = 0


def read_packed_pickle_layout(source: ByteSource) -> PackedPickleLayout:
    """Return level 1: the stream unpacks to its end, and that is the end of the file."""
    way = _way(read_bounded(source, 0, min(8, source.size_bytes), "head"))
    if way is None:
        raise ContainerBroken("no compressed stream", offset=0)
    plain_bytes = 0
    if way == "lz4":
        _walk_lz4(source)
    else:
        for piece in _pieces(source, way):
            plain_bytes += len(piece)
            if plain_bytes > PLAIN_BYTES_MAX:
                raise NotChecked(f"compressed pickle of more than {PLAIN_BYTES_MAX} bytes is larger than is unpacked")
    return PackedPickleLayout("packed-pickle", source.size_bytes, (), way=way, plain_bytes=plain_bytes)


def read_packed_pickle_content(source: ByteSource, layout: PackedPickleLayout) -> Content | None:
    """Return level 2, as for an uncompressed pickle; all arrays count as compressed."""
    if layout.way == "lz4":
        return None
    stream = _Stream(source, layout)
    if not layout.plain_bytes or stream.read_at(0, 1) != _PICKLE:
        raise NotChecked("compressed file that holds no pickle, or one of an old protocol")
    try:
        content = read_pickle_content(read_pickle_layout(stream))
    except ContainerBroken as fault:
        fault.offset = None  # of what was unpacked, and nowhere in the file
        raise
    packed_count = len(content.storages)
    return Content((), content.tensors, content.facts, packed_count, aside_count=content.aside_count)


# ---------------------------------------------------------------- streams


class _Engine(Protocol):
    """What zlib's, bz2's and lzma's decompressors have in common here."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


def _engine(way: str) -> _Engine:
    if way == "bz2":
        return bz2.BZ2Decompressor()
    if way == "xz":
        return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES)
    return zlib.decompressobj(zlib.MAX_WBITS + (16 if way == "gzip" else 0))


def _pieces(source: ByteSource, way: str) -> Iterator[bytes]:
    """Yield the decompressed file, a MiB at a time; it may be several streams in a row."""
    engine = _engine(way)
    at, data = 0, b""
    left_streams = STREAMS_MAX
    while not engine.eof or data or at < source.size_bytes:
        if engine.eof:
            data, at = _behind(source, data, at)
            if not data:
                return
            if _way(data) != way:
                raise NotChecked("what lies behind the compressed stream is not known here", offset=at - len(data))
            left_streams -= 1
            if not left_streams:
                raise NotChecked(f"more than {STREAMS_MAX} streams one behind the other", offset=at)
            engine = _engine(way)
        if not data and _wants(engine):
            data = source.read_at(at, min(_FEED_BYTES, source.size_bytes - at))
            at += len(data)
            if not data:
                raise ContainerBroken("file ends inside of its compressed stream", offset=at)
        piece = _unpacked(engine, data, at)
        data = engine.unused_data if engine.eof else getattr(engine, "unconsumed_tail", b"")
        if piece:
            yield piece


def _behind(source: ByteSource, data: bytes, at: int) -> tuple[bytes, int]:
    """Return the bytes behind a stream without the zeros that may pad it, and the offset read up to."""
    while not (data := data.lstrip(b"\0")) and at < source.size_bytes:
        data = source.read_at(at, min(_FEED_BYTES, source.size_bytes - at))
        at += len(data)
    return data, at


def _wants(engine: _Engine) -> bool:
    """Return whether the next step needs more input; zlib's always does."""
    return bool(getattr(engine, "needs_input", True))


def _unpacked(engine: _Engine, data: bytes, at: int) -> bytes:
    try:
        return engine.decompress(data, _PIECE_BYTES)
    except lzma.LZMAError as error:
        if "limit" in str(error):
            raise NotChecked("compressed stream that takes more memory than is given") from None
        raise RecordDamaged("compressed stream is damaged", offset=at) from None
    except (zlib.error, OSError, EOFError, ValueError):
        raise RecordDamaged("compressed stream is damaged", offset=at) from None


class _Stream:
    """The decompressed file, read from its start on; a step back past the kept bytes starts again."""

    def __init__(self, source: ByteSource, layout: PackedPickleLayout) -> None:
        self.size_bytes = layout.plain_bytes
        self._source = source
        self._way = layout.way
        self._begin_anew()

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the *length* bytes at *offset*."""
        if offset < self._begin:
            self._begin_anew()
        while self._end < offset + length:
            self._take()
        parts, at = [], self._begin
        for piece in self._kept:
            parts.append(piece[max(offset - at, 0) : max(offset + length - at, 0)])
            at += len(piece)
        return b"".join(parts)

    def _begin_anew(self) -> None:
        self._pieces = _pieces(self._source, self._way)
        self._kept: deque[bytes] = deque()
        self._begin = self._end = 0

    def _take(self) -> None:
        """Decompress one more piece and drop the oldest ones."""
        piece = next(self._pieces, None)
        if piece is None:
            raise ContainerBroken("compressed stream is shorter than it was")
        self._kept.append(piece)
        self._end += len(piece)
        while self._end - self._begin - len(self._kept[0]) > KEPT_BYTES_MAX:
            self._begin += len(self._kept.popleft())


# ---------------------------------------------------------------- lz4

_LZ4_HEAD_BYTES: Final = 7
_LZ4_SIZE_BYTES: Final = 8
_LZ4_SUM_BYTES: Final = 4
_PLAIN_BIT: Final = 1 << 31


def _walk_lz4(source: ByteSource) -> None:
    """Frame by frame to the end of the file: heads, blocks, and the sums of both."""
    at = blocks = 0
    while at < source.size_bytes:
        at, has_block_sums, has_sum = _lz4_head(source, at)
        while size := int.from_bytes(read_bounded(source, at, _LZ4_SUM_BYTES, "block"), "little"):
            blocks += 1
            if blocks > BLOCKS_MAX:
                raise NotChecked(f"stream of more than {BLOCKS_MAX} blocks is larger than is checked")
            at += _LZ4_SUM_BYTES
            length = size & ~_PLAIN_BIT
            if at + length > source.size_bytes:
                raise ContainerBroken("file ends inside of a block", offset=at)
            if has_block_sums:
                _check_lz4(read_bounded(source, at, length, "block"), source, at + length)
            at += length + (_LZ4_SUM_BYTES if has_block_sums else 0)
        at += _LZ4_SUM_BYTES * (1 + has_sum)
    if at != source.size_bytes:
        raise ContainerBroken("file ends before its compressed stream does", offset=source.size_bytes)


def _lz4_head(source: ByteSource, at: int) -> tuple[int, bool, bool]:
    """Return where the blocks of a frame begin, and whether they and the frame have sums."""
    from xxhash import xxh32_intdigest

    head = read_bounded(source, at, min(_LZ4_HEAD_BYTES + 12, source.size_bytes - at), "frame")
    if not head.startswith(_LZ4) or len(head) < _LZ4_HEAD_BYTES:
        raise NotChecked("what lies behind the compressed stream is not known here", offset=at)
    flags = head[4]
    if flags >> 6 != 1:
        raise NotChecked("a version of lz4 that is not known here", offset=at + 4)
    end = 6 + (_LZ4_SIZE_BYTES if flags & 0x08 else 0) + (_LZ4_SUM_BYTES if flags & 0x01 else 0)
    if len(head) <= end or (xxh32_intdigest(head[4:end]) >> 8) & 0xFF != head[end]:
        raise RecordDamaged("sum of the frame's head differs", offset=at)
    return at + end + 1, bool(flags & 0x10), bool(flags & 0x04)


def _check_lz4(block: bytes, source: ByteSource, at: int) -> None:
    from xxhash import xxh32_intdigest

    if xxh32_intdigest(block) != int.from_bytes(read_bounded(source, at, _LZ4_SUM_BYTES, "sum"), "little"):
        raise RecordDamaged("sum of a block differs", offset=at)
