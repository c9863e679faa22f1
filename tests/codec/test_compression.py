"""Compression of a chunk, and decoding that the announced length bounds."""

from __future__ import annotations

import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mlsync.codec.compression import SAMPLE_FROM_BYTES, Coding, CodingBroken, decode, decode_into, encode
from mlsync.codec.frames import ZSTD_LEVEL

NOISE = random.Random(1).randbytes(1 << 20)


@given(st.one_of(st.binary(max_size=2000), st.builds(bytes.__mul__, st.binary(min_size=1, max_size=9), st.just(5000))))
def test_what_is_encoded_decodes(plain):
    """Decoding returns the encoded bytes, and coded bytes are never longer than plain ones."""
    coding, coded = encode(memoryview(plain))
    assert len(coded) <= len(plain)
    assert decode(coding, coded, len(plain)) == plain


def test_incompressible_bytes_are_stored_as_they_are():
    """Noise is stored raw, and not even copied."""
    plain = memoryview(NOISE)
    coding, coded = encode(plain)
    assert coding is Coding.RAW
    assert coded is plain


def test_a_compressible_chunk_is_compressed():
    """Zeros shrink, small and large."""
    for size_bytes in (100, SAMPLE_FROM_BYTES, 1 << 20):
        coding, coded = encode(memoryview(bytes(size_bytes)))
        assert coding is Coding.ZSTD
        assert len(coded) < size_bytes // 4


def test_the_sample_looks_at_first_middle_and_last():
    """A chunk that is compressible in one third is recognised, at its front or its end."""
    third = len(NOISE) // 3
    assert encode(memoryview(bytes(third) + NOISE[: 2 * third]))[0] is Coding.ZSTD
    assert encode(memoryview(NOISE[: 2 * third] + bytes(third)))[0] is Coding.ZSTD
    assert encode(memoryview(NOISE + bytes(100)))[0] is Coding.RAW


def test_a_gain_of_less_than_a_twentieth_is_not_taken():
    """A chunk that compresses to more than 95 % is stored raw, because decoding costs time at every restore."""
    plain = NOISE[:97_000] + bytes(3_000)
    assert encode(memoryview(plain))[0] is Coding.RAW


@pytest.mark.parametrize("promised_bytes", [0, 1, 999, 1001, 1 << 20])
def test_another_length_than_promised_is_refused(promised_bytes):
    """Fewer or more bytes than announced are refused."""
    plain = bytes(1000)
    for coding in Coding:
        coded = plain if coding is Coding.RAW else zstandard.ZstdCompressor().compress(plain)
        with pytest.raises(CodingBroken):
            decode(coding, coded, promised_bytes)


def test_a_bomb_is_refused_by_its_own_header():
    """A frame of a gigabyte announced as a megabyte is refused before any allocation."""
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(size=1 << 30)
    bomb = b"".join(compressor.compress(bytes(16 << 20)) for _ in range(64)) + compressor.flush()
    tracemalloc.start()
    try:
        with pytest.raises(CodingBroken, match="declares 1073741824 bytes"):
            decode(Coding.ZSTD, bomb, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_that_does_not_name_its_size_is_refused():
    """A frame without its size is refused: nothing would bound it, and mlsync always writes it."""
    unnamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(CodingBroken):
        decode(Coding.ZSTD, unnamed, 1000)


@pytest.mark.parametrize("declared_bytes", [300, 999, 1001, 65_000])
def test_a_frame_that_lies_about_its_size_is_refused(declared_bytes):
    """A frame whose header has the announced length and whose body has another one is refused."""
    # One segment, a content size of two bytes: RFC 8878, 3.1.1.1.
    honest = zstandard.ZstdCompressor(write_checksum=False).compress(bytes(1000))
    assert zstandard.frame_content_size(honest) == 1000
    assert honest[4] >> 6 == 1
    field = (declared_bytes - 256).to_bytes(2, "little")
    liar = honest[:5] + field + honest[7:]
    assert zstandard.frame_content_size(liar) == declared_bytes
    with pytest.raises(CodingBroken):
        decode(Coding.ZSTD, liar, declared_bytes)


_TAILS = {
    "a byte": b"\0",
    "a frame": zstandard.compress(b"more"),
    "an empty frame": zstandard.compress(b""),
    "a skippable frame": b"\x50\x2a\x4d\x18\0\0\0\0",
}


@pytest.mark.parametrize("tail", _TAILS.values(), ids=_TAILS)
@pytest.mark.parametrize("plain", [b"", b"a", bytes(300_000), NOISE[:300_000], b"checkpoint " * 30_000])
@pytest.mark.parametrize("has_checksum", [False, True])
def test_nothing_stands_behind_a_frame(plain, tail, has_checksum):
    """Bytes after a frame of any kind of blocks are refused."""
    frame = zstandard.ZstdCompressor(write_checksum=has_checksum).compress(plain)
    assert decode(Coding.ZSTD, frame, len(plain)) == plain
    with pytest.raises(CodingBroken):
        decode(Coding.ZSTD, frame + tail, len(plain))


@given(st.data())
def test_a_damaged_frame_gives_the_right_length_or_nothing(data):
    """A cut or changed frame decodes to the right length or raises CodingBroken."""
    coded = bytearray(zstandard.ZstdCompressor(write_checksum=False).compress(b"checkpoint " * 300))
    if data.draw(st.booleans()):
        del coded[data.draw(st.integers(0, len(coded) - 1)) :]
    else:
        coded[data.draw(st.integers(0, len(coded) - 1))] ^= data.draw(st.integers(1, 255))
    into = bytearray(3300)
    try:
        decode_into(Coding.ZSTD, memoryview(coded), memoryview(into))
    except CodingBroken:
        return
    assert len(into) == 3300


def test_contexts_are_not_shared_between_threads():
    """Many threads that encode and decode at once each get their own bytes."""

    def round_trip(seed):
        plain = bytes([seed]) * 50_000 + random.Random(seed).randbytes(50_000)
        coding, coded = encode(memoryview(plain))
        return decode(coding, coded, len(plain)) == plain

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(round_trip, range(64)))
