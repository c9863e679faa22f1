"""Compression of one chunk: a sample says whether it pays, the coder does it, the decoder is bounded by what is due."""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import Final, TypeAlias

import zstandard

Buffer: TypeAlias = bytes | bytearray | memoryview


class Coding(IntEnum):
    """How a chunk's bytes stand in its pack. The numbers are part of the format and are never given a new meaning."""

    RAW = 0
    ZSTD = 1


class CodingBroken(Exception):
    """Bytes that do not decode to what was promised."""


ZSTD_LEVEL: Final = 1
# Under this a chunk is coded to find out: a sample would not be shorter than the whole.
SAMPLE_FROM_BYTES: Final = 128 << 10
SAMPLE_BYTES: Final = 16 << 10
SAMPLE_COUNT: Final = 3
# fp32 weights come to 0.92 with zstd-1; what comes to more than this is not worth a gigabyte a second.
WORTH_RATIO: Final = 0.95


class _Coders(threading.local):
    """A zstd context per thread: contexts are reused (they own megabytes) and cannot be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_coders = _Coders()


def encode(plain: memoryview) -> tuple[Coding, Buffer]:
    """Return how *plain* is best stored, and those bytes: *plain* itself where compression does not pay."""
    if not _is_worth_it(plain):
        return Coding.RAW, plain
    coded = _coders.compressor.compress(plain)
    if len(coded) > WORTH_RATIO * len(plain):
        return Coding.RAW, plain
    return Coding.ZSTD, coded


def decode_into(coding: Coding, coded: memoryview, into: memoryview) -> None:
    """Fill the whole of *into* with the plain bytes, or raise ``CodingBroken``; never needs more room than that."""
    if coding is Coding.RAW:
        if len(coded) != len(into):
            raise CodingBroken(f"holds {len(coded)} bytes instead of {len(into)}")
        into[:] = coded
        return
    try:
        # The frame's own header is asked first: what it declares must be what was promised.
        if (declared := zstandard.frame_content_size(coded)) != len(into):
            raise CodingBroken(f"the zstd frame declares {declared} bytes instead of {len(into)}")
        with _coders.decompressor.stream_reader(coded, read_across_frames=False, closefd=False) as reader:
            filled_bytes = _read_whole(reader, into)
            if filled_bytes != len(into) or reader.read(1):
                raise CodingBroken(f"decodes to another length than {len(into)} bytes")
    except zstandard.ZstdError as error:
        raise CodingBroken(str(error)) from error


def decode(coding: Coding, coded: Buffer, plain_bytes: int) -> bytes:
    """Return exactly *plain_bytes* bytes of something small, or raise ``CodingBroken``."""
    plain = bytearray(plain_bytes)
    decode_into(coding, memoryview(coded), memoryview(plain))
    return bytes(plain)


def _read_whole(reader: zstandard.ZstdDecompressionReader, into: memoryview) -> int:
    filled_bytes = 0
    while filled_bytes < len(into) and (count := reader.readinto(into[filled_bytes:])):
        filled_bytes += count
    return filled_bytes


def _is_worth_it(plain: memoryview) -> bool:
    size_bytes = len(plain)
    if size_bytes < SAMPLE_FROM_BYTES:
        return True
    # First, middle and last: a chunk can begin with a header and end in zeros.
    step = (size_bytes - SAMPLE_BYTES) // (SAMPLE_COUNT - 1)
    coded_bytes = sum(
        len(_coders.compressor.compress(plain[start : start + SAMPLE_BYTES]))
        for start in range(0, size_bytes - SAMPLE_BYTES + 1, step)
    )
    return coded_bytes <= WORTH_RATIO * SAMPLE_COUNT * SAMPLE_BYTES
