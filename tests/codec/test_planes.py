"""Byte planes: splitting and joining, what is worth splitting, and refusal of wrong input."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mlsync.codec.compression import PLANES_FROM_BYTES, Coding, CodingBroken, decode, decode_into, encode
from mlsync.codec.frames import Method
from mlsync.codec.planes import Plane, PlaneChoice, PlaneCoder, choose_planes

NUMBERS = np.random.default_rng(1)
WEIGHTS = (NUMBERS.standard_normal(300_000) * 0.02).astype(np.float32)
WIDTHS = {"float16": 2, "float32": 4, "float64": 8}


def bfloat16(weights):
    """The upper halves of float32: what bfloat16 is."""
    return (weights.view(np.uint32) >> 16).astype(np.uint16)


def planes_of(chunk, width):
    """The chunk's coded bytes, which must be planes."""
    coding, coded = encode(memoryview(chunk).cast("B"), width)
    assert coding is Coding.PLANES
    return bytes(coded)


@given(
    st.integers(0, 3 * PLANES_FROM_BYTES),
    st.sampled_from([0, 1, 2, 3, 4, 8, 16]),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 255),
)
def test_what_is_encoded_decodes(size_bytes, item_bytes, step, constant):
    """Decoding returns the bytes for any content and stated width, and coded bytes are never longer."""
    plain = bytearray(random.Random(size_bytes).randbytes(size_bytes))
    plain[::step] = bytes([constant]) * len(plain[::step])
    coding, coded = encode(memoryview(plain), item_bytes)
    assert len(coded) <= len(plain)
    assert decode(coding, bytes(coded), len(plain)) == plain


@pytest.mark.parametrize("dtype", sorted(WIDTHS))
@pytest.mark.parametrize("extra_bytes", [0, 1])
def test_floats_of_each_width_are_stored_in_planes(dtype, extra_bytes):
    """Weights survive planes, including bytes after the last whole number."""
    chunk = WEIGHTS.astype(dtype).tobytes() + b"x" * extra_bytes
    coded = planes_of(chunk, WIDTHS[dtype])
    assert decode(Coding.PLANES, coded, len(chunk)) == chunk


def test_float32_weights_come_to_less_than_any_compressor_makes_of_them_as_they_lie():
    """float32 weights compress to 0.835 in planes, and to 0.92 at best with zstd."""
    plain = WEIGHTS.tobytes()
    assert len(planes_of(plain, 4)) < 0.84 * len(plain)
    assert len(zstandard.ZstdCompressor(level=19).compress(plain)) > 0.9 * len(plain)


def test_bfloat16_weights_come_to_two_thirds():
    """bfloat16 weights compress to two thirds: half of each number is exponent and sign."""
    plain = bfloat16(WEIGHTS).tobytes()
    assert len(planes_of(plain, 2)) < 0.68 * len(plain)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_planes_are_joined_across_blocks(width):
    """Several coded planes, in a chunk of several blocks with a part of one and of an item at its end, are whole."""
    noise = np.random.default_rng(width)
    items = noise.normal(0, 200, (300 << 10) // width).astype(np.int64).astype(f"<i{width}")
    plain = items.tobytes() + b"!" * (width - 1)
    planes = [Plane(position, 1, Method.ENTROPY) for position in range(width)]
    coded = bytes(PlaneCoder().encode(memoryview(plain), width, planes))
    assert decode(Coding.PLANES, coded, len(plain)) == plain


def test_a_plane_of_zeros_costs_nothing():
    """float32 converted from bfloat16 compresses to the size of the bfloat16."""
    plain = (WEIGHTS.view(np.uint32) & 0xFFFF0000).tobytes()
    assert len(planes_of(plain, 4)) < 0.34 * len(plain)


def test_noise_is_not_taken_apart():
    """Bytes without a compressible plane are stored as they are, without a copy."""
    plain = memoryview(random.Random(1).randbytes(1 << 20))
    coding, coded = encode(plain, 4)
    assert coding is Coding.RAW
    assert coded is plain


def test_what_repeats_in_stretches_is_found_out():
    """Repeated rows are stored about once, in planes or not."""
    plain = np.tile(WEIGHTS[:1000], 200).tobytes()
    assert len(encode(memoryview(plain), 4)[1]) < len(plain) // 50


def test_a_short_chunk_is_not_taken_apart():
    """Below four KiB the planes' headers would cost more than they save."""
    plain = WEIGHTS[: PLANES_FROM_BYTES // 4 - 1].tobytes()
    assert encode(memoryview(plain), 4)[0] is not Coding.PLANES


def test_neighbours_that_are_noise_stay_together():
    """The two lower bytes of a float32 are one plane: one pass instead of two."""
    planes = choose_planes(WEIGHTS.tobytes(), 4).planes
    assert planes[:2] == (Plane(0, 2, Method.RAW), Plane(2, 1, Method.RAW))
    assert (planes[2].position, planes[2].width) == (3, 1)


def test_a_plan_that_does_not_hold_is_given_up():
    """If a chunk compresses worse than its sample, the coder returns nothing rather than more bytes."""
    noise = memoryview(random.Random(1).randbytes(1 << 16))
    hopeful = PlaneChoice((Plane(0, 1, Method.ENTROPY), Plane(1, 1, Method.ENTROPY)), 0.5)
    assert PlaneCoder().encode(noise, 2, hopeful.planes) is None


def test_encoding_a_second_chunk_allocates_little():
    """The coder reuses its buffers: a second chunk of a megabyte allocates only its coded exponents."""
    coder, plain = PlaneCoder(), memoryview(WEIGHTS).cast("B")
    planes = choose_planes(plain, 4).planes
    coder.encode(plain, 4, planes)
    tracemalloc.start()
    try:
        coder.encode(plain, 4, planes)
        assert tracemalloc.get_traced_memory()[1] < len(plain) // 4 + (64 << 10)
    finally:
        tracemalloc.stop()


def head(width, planes, *, zero=0, zeros=0):
    """A head and records of planes: (width, coding, coded length)."""
    records = b"".join(struct.pack("<BBHI", width, coding, 0, size) for width, coding, size in planes)
    return struct.pack("<BBHI", width, len(planes), zero, zeros) + records


SOUND = [(2, 0, 8192), (1, 0, 4096), (1, 0, 4096)]
LIES = {
    "nothing": b"",
    "a head that is cut short": head(4, SOUND)[:7],
    "records that are cut short": head(4, SOUND)[:-1],
    "elements of three bytes": head(3, [(1, 0, 5461)] * 3) + bytes(16384),
    "elements of no bytes": head(0, []) + bytes(16384),
    "more planes than bytes": head(2, [(1, 0, 8192)] * 3) + bytes(24576),
    "no plane": head(4, []) + bytes(16384),
    "planes that overlap the element's end": head(4, [*SOUND[:2], (2, 0, 8192)]) + bytes(20480),
    "planes that leave a byte out": head(4, SOUND[:2]) + bytes(12288),
    "a plane across its own width": head(4, [(1, 0, 4096), (2, 0, 8192), (1, 0, 4096)]) + bytes(16384),
    "a plane of three bytes": head(4, [(3, 0, 12288), (1, 0, 4096)]) + bytes(16384),
    "an unknown coding": head(4, [(2, 0, 8192), (2, 2, 8192)]) + bytes(16384),
    "a raw plane of another length": head(4, [(2, 0, 8191), (2, 0, 8193)]) + bytes(16384),
    "fewer bytes than its planes": head(4, SOUND) + bytes(16383),
    "more bytes than its planes": head(4, SOUND) + bytes(16385),
    "a length of four gigabytes": head(4, [(2, 0, 8192), (2, 1, 0xFFFFFFFF)]) + bytes(16384),
    "a reserved byte that is not 0": head(4, SOUND, zero=1) + bytes(16384),
    "a reserved word that is not 0": head(4, SOUND, zeros=1) + bytes(16384),
    "a frame that is none": head(4, [(2, 0, 8192), (2, 1, 8192)]) + bytes(16384),
    "a frame of another length": head(4, [(2, 0, 8192), (2, 1, 17)])
    + bytes(8192)
    + zstandard.ZstdCompressor().compress(bytes(8191))[:17],
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_what_cannot_be_is_refused(lie):
    """Planes that do not make up the announced chunk are refused."""
    with pytest.raises(CodingBroken):
        decode(Coding.PLANES, LIES[lie], 16384)


def test_what_a_lie_is_told_from_decodes():
    """The header that those tests change is valid itself."""
    assert decode(Coding.PLANES, head(4, SOUND) + bytes(16384), 16384) == bytes(16384)


def test_a_bomb_in_a_plane_is_refused():
    """A frame larger than its plane is refused before any allocation."""
    compressor = zstandard.ZstdCompressor().compressobj(size=1 << 30)
    bomb = b"".join(compressor.compress(bytes(16 << 20)) for _ in range(64)) + compressor.flush()
    coded = head(2, [(1, 0, 1 << 19), (1, 1, len(bomb))]) + bytes(1 << 19) + bomb
    tracemalloc.start()
    try:
        with pytest.raises(CodingBroken, match="declares 1073741824 bytes"):
            decode(Coding.PLANES, coded, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@given(st.data())
def test_damaged_planes_give_the_right_length_or_nothing(data):
    """Cut or changed planes decode to the right length or raise CodingBroken."""
    plain = bfloat16(WEIGHTS[:4000]).tobytes() + b"x"
    coded = bytearray(planes_of(plain, 2))
    if data.draw(st.booleans()):
        del coded[data.draw(st.integers(0, len(coded) - 1)) :]
    else:
        coded[data.draw(st.integers(0, 60))] ^= data.draw(st.integers(1, 255))
    into = bytearray(len(plain))
    try:
        decode_into(Coding.PLANES, memoryview(coded), memoryview(into))
    except CodingBroken:
        return
    assert len(into) == len(plain)


def test_coders_are_not_shared_between_threads():
    """Many threads that split chunks at once each get their own bytes."""

    def round_trip(seed):
        plain = (WEIGHTS[:50_000] * seed).tobytes()
        coding, coded = encode(memoryview(plain), 4)
        return decode(coding, bytes(coded), len(plain)) == plain

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(round_trip, range(1, 65)))


def test_numpy_starts_no_thread_in_a_process_of_mlsync():
    """A process that began as the command ``mlsync`` has one thread when numpy is imported."""
    program = (
        "import os, sys\n"
        "from mlsync.cli.main import main\n"
        "sys.argv = ['mlsync', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "import mlsync.codec.planes\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1"
