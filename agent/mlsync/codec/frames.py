"""zstd frames (RFC 8878): made in two manners, and decoded into no more room than was promised for them."""

from __future__ import annotations

import threading
from enum import Enum
from typing import Final

import zstandard

from mlsync.buffers import Buffer

ZSTD_LEVEL: Final = 1
# fp32 weights come to 0.92 with zstd-1; what comes to more than this is not worth a gigabyte a second at each restore.
WORTH_RATIO: Final = 0.95
# Repeated stretches cost more to look for than frequent bytes, so they have to pay.
_MATCH_GAIN: Final = 0.97
# RFC 8878, 3.1.1.2: of a block that is one byte over and over, the size says how often, and one byte stands there.
_BLOCK_HEADER_BYTES: Final = 3
_BLOCK_REPEATED: Final = 1
_CHECKSUM_BYTES: Final = 4


class CodingBroken(Exception):
    """Bytes that do not decode to what was promised."""


class Manner(Enum):
    """How bytes are made shorter; a reader cannot tell the last two apart and need not."""

    RAW = "stored as they are"
    ENTROPY = "frequent bytes are short"
    MATCHED = "and repeated stretches are stored once"


class _Contexts(threading.local):
    """The zstd contexts of a thread: they are reused (they own megabytes) and cannot be shared."""

    def __init__(self) -> None:
        self.matching = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False, write_content_size=True)
        # No match of seven bytes is found through a table of 64 places: what is left of zstd is its Huffman coder, at
        # twice the speed of level 1 and, where there is nothing to match, with a smaller result.
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


def frame(manner: Manner, plain: Buffer) -> bytes:
    """Return a frame of *plain*; *manner* is not ``RAW``."""
    coder = _contexts.entropy if manner is Manner.ENTROPY else _contexts.matching
    return coder.compress(plain)


def best_manner(sample: Buffer) -> tuple[Manner, int]:
    """Return which manner is worth it for bytes like *sample*, and to how many bytes the sample itself came."""
    entropy_bytes = len(frame(Manner.ENTROPY, sample))
    matched_bytes = len(frame(Manner.MATCHED, sample))
    if min(entropy_bytes, matched_bytes) > WORTH_RATIO * len(sample):
        return Manner.RAW, len(sample)
    if matched_bytes < _MATCH_GAIN * entropy_bytes:
        return Manner.MATCHED, matched_bytes
    return Manner.ENTROPY, entropy_bytes


def decode_frame_into(frame: memoryview, into: memoryview) -> None:
    """Fill the whole of *into* with what *frame* holds, or raise ``CodingBroken``; never needs more room than that."""
    try:
        # The frame's own header is asked first: what it declares must be what was promised.
        if (declared := zstandard.frame_content_size(frame)) != len(into):
            raise CodingBroken(f"the zstd frame declares {declared} bytes instead of {len(into)}")
        if (frame_bytes := _frame_bytes(frame)) != len(frame):
            raise CodingBroken(f"the zstd frame takes {frame_bytes} bytes of {len(frame)}")
        with _contexts.decompressor.stream_reader(frame, read_across_frames=False, closefd=False) as reader:
            filled_bytes = _read_whole(reader, into)
            if filled_bytes != len(into) or reader.read(1):
                raise CodingBroken(f"decodes to another length than {len(into)} bytes")
    except zstandard.ZstdError as error:
        raise CodingBroken(str(error)) from error


def _frame_bytes(frame: memoryview) -> int:
    """Return how long the frame is by the headers of its blocks: the decoder does not tell what it left over."""
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
