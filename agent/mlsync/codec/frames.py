"""zstd frames (RFC 8878): encoded by one of two methods, and decoded into no more room than was announced."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import Enum
from typing import Final, cast

import zstandard

from mlsync.buffers import Buffer

ZSTD_LEVEL: Final = 1
# fp32 weights shrink to 0.92 with zstd-1; a smaller gain is not worth decoding at a gigabyte a second in each restore.
WORTH_RATIO: Final = 0.95
# Searching for repetitions costs more than counting bytes, so it must save at least this much.
_MATCH_GAIN: Final = 0.97
# RFC 8878, 3.1.1.2: a block of one repeated byte stores that byte once, and its size says how often it repeats.
_BLOCK_HEADER_BYTES: Final = 3
_BLOCK_REPEATED: Final = 1
_CHECKSUM_BYTES: Final = 4
# Decoded by one call, into memory of its own: to set up a reader takes longer than to copy so little.
_SHORT_BYTES_MAX: Final = 16 << 10


class CodingBroken(Exception):
    """Bytes that do not decode to the announced length, or do not decode at all."""


class Method(Enum):
    """How to compress bytes; a decoder cannot tell the last two apart and need not."""

    RAW = "as they are"
    ENTROPY = "by Huffman coding alone"
    MATCHED = "by Huffman coding and repetitions"


class _Contexts(threading.local):
    """The zstd contexts of a thread: they own megabytes, so they are reused, and threads cannot share them."""

    def __init__(self) -> None:
        self.matching = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False, write_content_size=True)
        # A table of 64 entries finds no match of seven bytes: only zstd's Huffman coder is left, twice as fast as
        # level 1, and with a smaller result if there is nothing to match.
        entropy = zstandard.ZstdCompressionParameters(
            compression_level=ZSTD_LEVEL,
            strategy=zstandard.STRATEGY_FAST,
            min_match=7,
            hash_log=6,
            chain_log=6,
            window_log=17,
            search_log=1,
            write_checksum=False,
            write_content_size=True,
        )
        self.entropy = zstandard.ZstdCompressor(compression_params=entropy)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def frame(method: Method, plain: Buffer) -> bytes:
    """Return a zstd frame of *plain*; *method* is not ``RAW``."""
    coder = _contexts.entropy if method is Method.ENTROPY else _contexts.matching
    return coder.compress(plain)


def frames(plains: Sequence[bytes]) -> list[memoryview]:
    """Return a frame of each, all by ``MATCHED``: without Python's lock, which a call for each would fight for."""
    if not plains:
        return []
    coded = _contexts.matching.multi_compress_to_buffer(list(plains), threads=0)
    # A segment is a buffer, which the library's types do not say.
    return [memoryview(cast("bytes", coded[at])) for at in range(len(coded))]


def best_method(sample: Buffer) -> tuple[Method, int]:
    """Return the best method for bytes like *sample*, and the length of the coded sample."""
    entropy_bytes = len(frame(Method.ENTROPY, sample))
    matched_bytes = len(frame(Method.MATCHED, sample))
    if min(entropy_bytes, matched_bytes) > WORTH_RATIO * len(sample):
        return Method.RAW, len(sample)
    if matched_bytes < _MATCH_GAIN * entropy_bytes:
        return Method.MATCHED, matched_bytes
    return Method.ENTROPY, entropy_bytes


def decode_frame_into(frame: memoryview, into: memoryview) -> None:
    """Fill all of *into* from *frame*, or raise ``CodingBroken``; never needs more room than that."""
    try:
        # First the frame's own header: it must declare the announced length.
        if (declared := zstandard.frame_content_size(frame)) != len(into):
            raise CodingBroken(f"the zstd frame declares {declared} bytes instead of {len(into)}")
        if 0 < len(into) <= _SHORT_BYTES_MAX:
            # One call, which needs as much memory as was declared. It would not look behind a frame of no bytes.
            into[:] = _contexts.decompressor.decompress(frame, allow_extra_data=False)
            return
        if (frame_bytes := _frame_bytes(frame)) != len(frame):
            raise CodingBroken(f"the zstd frame takes {frame_bytes} bytes of {len(frame)}")
        with _contexts.decompressor.stream_reader(frame, read_across_frames=False, closefd=False) as reader:
            filled_bytes = _read_whole(reader, into)
            if filled_bytes != len(into) or reader.read(1):
                raise CodingBroken(f"decodes to another length than {len(into)} bytes")
    except zstandard.ZstdError as error:
        raise CodingBroken(f"the zstd frame does not decode: {error}") from error


def _frame_bytes(frame: memoryview) -> int:
    """Return the frame's length by its block headers: the decoder does not report bytes that it left over."""
    at = zstandard.frame_header_size(frame)
    is_last = False
    while not is_last:
        if at + _BLOCK_HEADER_BYTES > len(frame):
            raise CodingBroken("the zstd frame ends between its blocks")
        header = int.from_bytes(frame[at : at + _BLOCK_HEADER_BYTES], "little")
        is_last, kind, size_bytes = bool(header & 1), header >> 1 & 3, header >> 3
        at += _BLOCK_HEADER_BYTES + (1 if kind == _BLOCK_REPEATED else size_bytes)
    return at + (_CHECKSUM_BYTES if zstandard.get_frame_parameters(frame).has_checksum else 0)


def _read_whole(reader: zstandard.ZstdDecompressionReader, into: memoryview) -> int:
    filled_bytes = 0
    while filled_bytes < len(into) and (count := reader.readinto(into[filled_bytes:])):
        filled_bytes += count
    return filled_bytes
